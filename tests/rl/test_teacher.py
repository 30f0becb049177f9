"""Where policies come from; what a foreign file may not do."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stable_baselines3 import PPO

from tests.networks import early_exit_nature_cnn
from ztw_rl.core.checkpoint import newest_checkpoint
from ztw_rl.errors import UserError
from ztw_rl.rl import ppo
from ztw_rl.rl.agent import Agent, AgentConfig, Provenance, save_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import PPOConfig, PPORun
from ztw_rl.rl.teacher import from_agent, from_checkpoint, from_zip, uniform_policy

SB3_PIXELS = AtariConfig(pixels="sb3")


@pytest.fixture(scope="module")
def env():
    env = AtariVecEnv(AtariConfig(), 2, n_threads=1)
    yield env
    env.close()


@pytest.fixture(scope="module")
def saved(env, tmp_path_factory) -> tuple[PPO, Path]:
    """A policy of SB3's own, and the file that SB3 wrote."""
    path = tmp_path_factory.mktemp("sb3") / "foreign.zip"
    model = PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0)
    model.save(path)
    return model, path


def pictures():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8, generator=generator)


def logits(teacher):
    model = early_exit_nature_cnn(teacher.n_actions).eval()
    model.load_state_dict(dict(teacher.parameters), strict=False)
    with torch.no_grad():
        return torch.log_softmax(model.backbone(pictures()), -1)


def test_a_zip_that_sb3_saved(saved):
    model, path = saved
    teacher = from_zip(path, SB3_PIXELS)
    assert teacher.n_actions == 6
    assert teacher.environment == SB3_PIXELS
    assert teacher.provenance == Provenance(imported_from="foreign.zip")
    with torch.no_grad():
        wanted = model.policy.get_distribution(pictures()).distribution.logits
    torch.testing.assert_close(logits(teacher), wanted)


def test_a_checkpoint_of_train_ppo(env, tmp_path):
    config = PPOConfig(n_timesteps=16, n_envs=2, n_steps=8, batch_size=8, n_epochs=1)
    ppo.train(env, config, tmp_path, seed=3, device=torch.device("cpu"))
    run = PPORun(3, config, atari=AtariConfig())
    teacher = from_checkpoint(newest_checkpoint(tmp_path), run, AtariConfig())
    assert teacher.provenance == Provenance(ppo_timesteps=16, ppo_seed=3, ppo_noop_max=30)
    model = ppo.build_ppo(env, config, 0, torch.device("cpu"))
    ppo.load(model, newest_checkpoint(tmp_path))
    with torch.no_grad():
        wanted = model.policy.get_distribution(pictures()).distribution.logits
    torch.testing.assert_close(logits(teacher), wanted)
    (newest_checkpoint(tmp_path) / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json: key 'n_timesteps' is missing"):
        from_checkpoint(newest_checkpoint(tmp_path), run, AtariConfig())


def test_the_policy_inside_an_agent(tmp_path):
    provenance = Provenance(ppo_timesteps=5, imported_from="x.zip")
    config = AgentConfig(4, ("conv1",), "sdn", provenance, atari=AtariConfig(game="breakout"))
    model = early_exit_nature_cnn(4, ("conv1",)).eval()
    model.ensemble = None
    save_agent(tmp_path, Agent(config, model), torch.float32)
    teacher = from_agent(tmp_path)
    # The agent does not tell what PPO's games began with, so like its own.
    told = replace(provenance, ppo_noop_max=30)
    assert (teacher.environment, teacher.provenance) == (config.atari, told)
    assert len(teacher.parameters) == 10
    with torch.no_grad():
        wanted = torch.log_softmax(model.backbone(pictures()), -1)
    torch.testing.assert_close(logits(teacher), wanted)


def repacked(saved, tmp_path, content: bytes | None) -> Path:
    """The same file with another ``policy.pth``, or without one."""
    path = tmp_path / "changed.zip"
    with zipfile.ZipFile(saved[1]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name != "policy.pth":
                new.writestr(name, old.read(name))
        if content is not None:
            new.writestr("policy.pth", content)
    return path


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def torch_saved(value) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["plain pickle", "torch.save", "beside good weights"])
def test_pickles_are_not_executed(saved, tmp_path, kind):
    proof = tmp_path / "executed"
    content = {
        "plain pickle": lambda: pickle.dumps(Evil(proof)),
        "torch.save": lambda: torch_saved(Evil(proof)),
        "beside good weights": lambda: torch_saved(
            {**saved[0].policy.state_dict(), "evil": Evil(proof)}
        ),
    }[kind]()
    path = repacked(saved, tmp_path, content)
    with pytest.raises(UserError, match="cannot be read as an SB3 model") as raised:
        from_zip(path, SB3_PIXELS)
    assert "\n" not in str(raised.value)
    assert not proof.exists()


def test_the_other_entries_pickles_are_not_even_read(saved, tmp_path):
    proof = tmp_path / "executed"
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(saved[1]) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("policy.pth", old.read("policy.pth"))
        for name in ("data", "pytorch_variables.pth", "policy.optimizer.pth"):
            new.writestr(name, pickle.dumps(Evil(proof)))
    assert from_zip(path, SB3_PIXELS).n_actions == 6
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no 'policy.pth'; is it an SB3 model?"),
        (b"", "cannot be read as an SB3 model"),
        (b"\x00" * 100, "cannot be read as an SB3 model"),
        (pickle.dumps({}), "cannot be read as an SB3 model"),
        (torch_saved([1, 2]), "'policy.pth' holds something else than weights"),
        (torch_saved({"a": 1}), "'policy.pth' holds something else than weights"),
        (torch_saved({"a": torch.zeros(1)}), "holds no policy of PPO, A2C or DQN"),
    ],
)
def test_files_that_hold_no_policy(saved, tmp_path, content, message):
    path = repacked(saved, tmp_path, content)
    with pytest.raises(UserError) as raised:
        from_zip(path, SB3_PIXELS)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_truncated_missing_and_no_zip(saved, tmp_path):
    path = tmp_path / "short.zip"
    with pytest.raises(UserError, match="does not exist"):
        from_zip(path, SB3_PIXELS)
    whole = saved[1].read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no zip at all"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as an SB3 model"):
            from_zip(path, SB3_PIXELS)


def test_a_file_whose_middle_is_damaged(saved, tmp_path):
    content = bytearray(saved[1].read_bytes())
    with zipfile.ZipFile(saved[1]) as archive:
        entry = archive.getinfo("policy.pth")
    content[entry.header_offset + entry.compress_size // 2] ^= 0xFF
    path = tmp_path / "flipped.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as an SB3 model"):
        from_zip(path, SB3_PIXELS)


def test_every_action_is_equally_likely():
    log_probs = uniform_policy(5)(torch.zeros(3, 4, 84, 84, dtype=torch.uint8))
    torch.testing.assert_close(log_probs.exp(), torch.full((3, 1, 5), 0.2))
