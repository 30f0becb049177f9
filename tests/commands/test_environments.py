"""Every command of policies, in an environment that is no Atari game."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

import ztw_rl
from tests.corridor import Corridor
from ztw_rl import cli
from ztw_rl.rl.agent import load_agent

CORRIDOR = "tests.corridor:Corridor-v0"
PPO = ["--ppo.n-timesteps=64", "--ppo.n-envs=2", "--ppo.n-steps=16", "--ppo.batch-size=16"]
DISTILL = [
    *("--distill.n-timesteps=64", "--distill.n-envs=2", "--distill.n-steps=8"),
    "--distill.n-epochs=1",
]
EVAL = ["--n-episodes=10", "--n-envs=3", "--thresholds=0.5,0.9"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_training_to_an_exported_file(folder, capsys):
    assert cli.main(["train-ppo", f"--env={CORRIDOR}", *PPO]) == 0
    assert cli.main(["score", "--n-episodes=10", "--n-envs=3"]) == 0
    assert "in 10 games of corridor: greedy actions" in capsys.readouterr().out
    assert cli.main(["distill-ics", *DISTILL]) == 0
    agent = load_agent(Path("runs/distill/corridor-001/agent"))
    assert agent.config.env is not None
    assert agent.config.env.id == CORRIDOR
    assert agent.config.exits == ("layer1",)
    assert cli.main(["eval", *EVAL]) == 0
    assert "random play scores" in capsys.readouterr().out
    table = json.loads(Path("runs/eval/corridor-001/curve.json").read_text())
    assert table["random_return"] < 5
    assert len(table["rows"][0]["returns"]) == 10
    assert cli.main(["export", "--threshold=0.5"]) == 0
    exported, loaded = ztw_rl.load("corridor.onnx"), ztw_rl.load("runs/distill/corridor-001")
    x = np.array([[0, 5], [3, 5]], np.float32)
    assert exported.labels == loaded.labels == ["0", "1"]
    assert exported.decide(x).actions.shape == (2,)
    assert loaded.predict(x[0])[0].shape == ()
    assert cli.main(["bench", "--backends=eager", "--n-rounds=2", "--threshold=0.5"]) == 0


def test_pictures_wrappers_and_another_network(folder):
    flags = ["--env.wrappers=tests.corridor:Loud", "--env.frame-stack=2", "--ppo.network=impala"]
    assert cli.main(["train-ppo", "--env=tests.corridor:Pictures-v0", *flags, *PPO]) == 0
    assert cli.main(["distill-ics", "--distill.exits", "input", "stage1", *DISTILL]) == 2
    assert cli.main(["distill-ics", "--distill.exits", "stage1", "stage3", *DISTILL]) == 0
    config = load_agent(Path("runs/distill/pictures-001/agent")).config
    assert config.network.input_shape == (6, 12, 10)
    assert config.network.trunk == "impala"
    assert config.exits == ("stage1", "stage3")
    assert cli.main(["eval", *EVAL]) == 0


def test_a_run_goes_on(folder):
    assert cli.main(["train-ppo", f"--env={CORRIDOR}", *PPO]) == 0
    more = ["train-ppo", f"--env={CORRIDOR}", "--resume", "--ppo.n-timesteps=96"]
    assert cli.main(more) == 0
    steps = sorted(path.name for path in Path("runs/ppo/corridor-001/checkpoints").iterdir())
    assert steps[-1] == "step_000000096"


def test_what_is_learnt_from_may_be_scaled(folder):
    """The values' loss falls with it, and the score does not."""
    logs = []
    for number, scale in enumerate((1, 0.001), start=1):
        scaled = f"--ppo.reward-scale={scale}"
        assert cli.main(["train-ppo", f"--env={CORRIDOR}", *PPO, scaled]) == 0
        (path,) = Path(f"runs/ppo/corridor-00{number}/logs").glob("*.csv")
        logs.append(pd.read_csv(path))
    before = [log["rollout/ep_rew_mean"].iloc[0] for log in logs]
    assert before[0] == before[1]
    losses = [log["train/value_loss"].dropna().iloc[0] for log in logs]
    assert losses[0] > 1 > 10 * losses[1]


def test_a_dqn_that_sb3_saved(folder, capsys):
    DQN("MlpPolicy", DummyVecEnv([Corridor]), buffer_size=10, device="cpu").save("model.zip")
    told = ["distill-ics", "--policy=model.zip", f"--env={CORRIDOR}", *DISTILL]
    assert cli.main([*told, "--distill.temperature=0.5"]) == 0
    assert "the imported policy scores" in capsys.readouterr().err
    assert cli.main(["eval", *EVAL]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env=CartPol-v1"], "no game or environment is 'CartPol-v1'; did you mean 'CartPole-"),
        (["--env=Pendulum-v1"], "Pendulum-v1 has actions Box(-2.0, 2.0, (1,), float32); only"),
        (["--env=CartPole-v1", "--atari.frame-skip=2"], "CartPole-v1 is no Atari game; leave out"),
        (["--env=Pong", "--env.frame-stack=2"], "pong is an Atari game; leave out --env.* flags"),
        (["--env=CartPole-v1", "--env.id=A-v0"], "--env names CartPole-v1 already; leave out"),
        (
            ["--env=CartPole-v1", "--ppo.network=nature"],
            "a network of the kind nature reads",
        ),
        (
            ["--env=CartPole-v1", "--env.wrappers=nothing:A"],
            "wrapper 'nothing:A' cannot be imported: No module named 'nothing'",
        ),
        (
            ["--env=tests.corridor:Pictures-v0", "--ppo.network=nature"],
            "a NatureCNN needs images of 36x36 at least, not 12x10; take impala or mlp",
        ),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder, capsys, arguments, message):
    assert cli.main(["train-ppo", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert list(folder.iterdir()) == []


def test_a_policy_in_another_environment(folder, capsys):
    assert cli.main(["train-ppo", f"--env={CORRIDOR}", *PPO]) == 0
    capsys.readouterr()
    assert cli.main(["distill-ics", "--env=CartPole-v1"]) == 2
    assert "plays corridor, not CartPole-v1; leave out --env" in capsys.readouterr().err
    assert cli.main(["distill-ics", "--env.frame-stack=2"]) == 2
    assert "was trained on what it says; leave out --env.* flags" in capsys.readouterr().err
    assert cli.main(["distill-ics", "--activation=relu"]) == 2
    assert "--activation is for an SB3 .zip" in capsys.readouterr().err
    assert cli.main(["distill-ics", "--distill.temperature=2"]) == 2
    assert "is no DQN, so it has no temperature; leave it out" in capsys.readouterr().err


def test_a_distillation_stays_in_its_environment(folder, capsys):
    made = [f"--env={CORRIDOR}", "--env.kwargs", "length", "4", "size", "9"]
    assert cli.main(["train-ppo", *made, *PPO]) == 0
    assert cli.main(["distill-ics", *DISTILL]) == 0
    for flags, message in (
        (["--env.frame-stack=2"], "--env.frame-stack is 1 in"),
        (["--env.kwargs.length=3"], "--env.kwargs.length is 4 in"),
    ):
        capsys.readouterr()
        assert cli.main(["distill-ics", "--resume", *flags]) == 2
        assert message in capsys.readouterr().err
