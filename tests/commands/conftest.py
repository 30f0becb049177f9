"""A trained and a distilled run of a few steps on the real Pong, made once."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stable_baselines3 import PPO

from ztw_rl import cli
from ztw_rl.core import bench
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv

TRAIN = [
    *["train-ppo", "--env=Pong", "--n-timesteps=16", "--device=cpu", "--atari.max-frames=100"],
    *["--ppo.n-envs=2", "--ppo.n-steps=8", "--ppo.batch-size=8", "--ppo.n-epochs=1"],
]
DISTILL = [
    *["distill-ics", "--device=cpu", "--distill.n-timesteps=32", "--distill.n-envs=2"],
    *["--distill.n-steps=8", "--distill.n-epochs=1", "--distill.engine=eager"],
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory: an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    """Latencies from a few decisions are enough to see the table."""
    quick = functools.partial(bench.time_exits, n_rounds=3, n_warmup=1)
    monkeypatch.setattr(bench, "time_exits", quick)


@pytest.fixture(scope="session")
def _made(tmp_path_factory) -> Path:
    """A folder with ``runs/ppo/pong-001`` and ``runs/distill/pong-001``."""
    made = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        assert cli.main(TRAIN) == 0
        assert cli.main(DISTILL) == 0
    return made / "runs"


@pytest.fixture(scope="session")
def sb3_zip(tmp_path_factory) -> Path:
    """What SB3 saves of a policy for Pong."""
    env = AtariVecEnv(AtariConfig(), 2, n_threads=1)
    path = tmp_path_factory.mktemp("sb3") / "Pong.zip"
    PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0).save(path)
    env.close()
    return path


@pytest.fixture
def ppo_run(_made, folder) -> Path:
    """A run of train-ppo in the current directory."""
    run = Path("runs/ppo/pong-001")
    shutil.copytree(_made / "ppo" / "pong-001", run)
    return run


@pytest.fixture
def distill_run(_made, folder) -> Path:
    """A finished run of distill-ics in the current directory."""
    run = Path("runs/distill/pong-001")
    shutil.copytree(_made / "distill" / "pong-001", run)
    return run


@pytest.fixture
def distill() -> Callable[..., int]:
    """Distils on small settings."""
    return lambda *arguments: cli.main([*DISTILL, *arguments])


@pytest.fixture
def one_error(capfd) -> Callable[..., str]:
    """Runs a command that a user's mistake stops; its single line on stderr."""

    def one_error(*arguments: str) -> str:
        # Of the process, not only of Python: the emulator writes too.
        capfd.readouterr()
        assert cli.main(list(arguments)) == 2
        captured = capfd.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return one_error
