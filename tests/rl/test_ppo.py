from __future__ import annotations

import csv
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ztw_rl.core.checkpoint import load_tensors, newest_checkpoint, save_tensors
from ztw_rl.core.device import exact_device
from ztw_rl.errors import UserError
from ztw_rl.rl import ppo
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv
from ztw_rl.rl.config import PPOConfig
from ztw_rl.rl.ppo import scheduled

CPU = torch.device("cpu")
TINY = PPOConfig(
    n_timesteps=32, n_envs=2, n_steps=8, batch_size=8, n_epochs=2, checkpoint_interval=16
)
LONGER = PPOConfig(
    n_timesteps=64,
    n_envs=2,
    n_steps=8,
    batch_size=8,
    n_epochs=2,
    checkpoint_interval=16,
    schedule="linear",
)


TEN_STEPS = PPOConfig(n_timesteps=16, n_envs=2, n_steps=8, batch_size=8, n_epochs=5)
"""As many as CUDA needs to replay what it recorded."""
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture
def trained(pong, tmp_path) -> Path:
    """A run that stands at 32 steps."""
    result = ppo.train(pong, TINY, tmp_path, seed=0, device=CPU)
    assert result == ppo.TrainingResult(32, True, newest_checkpoint(tmp_path))
    return tmp_path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_training_leaves_checkpoints_and_logs(trained):
    assert [p.name for p in sorted((trained / "checkpoints").iterdir())] == [
        "step_000000016",
        "step_000000032",
    ]
    assert list((trained / "logs").glob("events.out.tfevents.*"))
    assert [r["time/total_timesteps"] for r in rows(trained / "logs" / "progress_0.csv")] == [
        "16",
        "32",
    ]


def test_a_checkpoint_holds_weights_moments_and_counters(pong, trained):
    model = ppo.build_ppo(pong, TINY, seed=1, device=CPU)
    ppo.load(model, newest_checkpoint(trained))
    again = trained / "again"
    ppo.save(model, again)
    other = ppo.build_ppo(pong, TINY, seed=2, device=CPU)
    ppo.load(other, newest_checkpoint(again))
    assert other.num_timesteps == 32
    assert other._n_updates == 2 * TINY.n_epochs
    for a, b in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    before, after = (m.policy.optimizer.state_dict()["state"] for m in (model, other))
    assert len(before) == len(list(model.policy.parameters()))
    for index, state in before.items():
        # 2 rollouts of 16 steps in minibatches of 8, each seen twice.
        assert after[index]["step"] == 2 * 2 * TINY.n_epochs
        assert state["exp_avg_sq"].any()
        torch.testing.assert_close(state, after[index], rtol=0, atol=0)


def test_what_is_learnt_next_does_not_depend_on_an_interruption(pong, train_once, tmp_path):
    straight = ppo.build_ppo(pong, TINY, seed=0, device=CPU)
    straight.learn(TINY.n_timesteps)
    resumed = ppo.build_ppo(pong, TINY, seed=1, device=CPU)
    ppo.load(resumed, ppo.save(straight, tmp_path))
    _, callback = straight._setup_learn(TINY.n_timesteps)
    assert straight.collect_rollouts(pong, callback, straight.rollout_buffer, TINY.n_steps)
    resumed.rollout_buffer = straight.rollout_buffer
    for model in (straight, resumed):
        train_once(model)
    torch.testing.assert_close(
        dict(resumed.policy.state_dict()), dict(straight.policy.state_dict()), rtol=0, atol=0
    )


@pytest.mark.parametrize("name", DEVICES)
def test_a_checkpoint_takes_the_place_of_what_was_learnt(pong, train_once, tmp_path, name):
    """A learner that has recorded its steps goes on as a new one does."""
    device = exact_device(name)
    used, new = (ppo.build_ppo(pong, TEN_STEPS, seed, device) for seed in (0, 1))
    used.learn(TEN_STEPS.n_timesteps)
    checkpoint = ppo.save(used, tmp_path)
    train_once(used)
    for model in (used, new):
        ppo.load(model, checkpoint)
    new.rollout_buffer = used.rollout_buffer
    for model in (used, new):
        train_once(model, 0.5)
    weights = dict(new.policy.state_dict())
    torch.testing.assert_close(dict(used.policy.state_dict()), weights, rtol=1e-4, atol=1e-5)
    steps = used.policy.optimizer.state_dict()["state"][0]["step"]
    assert steps == 2 * 10


def test_resuming_continues_counter_schedule_and_logs(pong, trained):
    result = ppo.train(pong, LONGER, trained, seed=0, device=CPU, resume=True)
    assert (result.n_timesteps, result.finished) == (64, True)
    log = rows(trained / "logs" / "progress_32.csv")
    assert [r["time/total_timesteps"] for r in log] == ["48", "64"]
    # The update at step 48 of 64 has a quarter of the way left.
    assert float(log[1]["train/learning_rate"]) == pytest.approx(LONGER.learning_rate / 4)
    assert float(log[1]["train/clip_range"]) == pytest.approx(LONGER.clip_range / 4)


@pytest.mark.cuda
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
def test_resuming_on_another_device(pong, tmp_path, devices):
    first, second = map(torch.device, devices)
    ppo.train(pong, TINY, tmp_path, seed=0, device=first)
    assert learnt(newest_checkpoint(tmp_path)) == 32
    ppo.train(pong, LONGER, tmp_path, seed=0, device=second, resume=True)
    assert learnt(newest_checkpoint(tmp_path)) == 64
    log = rows(tmp_path / "logs" / "progress_32.csv")
    assert float(log[1]["train/learning_rate"]) == pytest.approx(LONGER.learning_rate / 4)


def test_resuming_a_finished_run_changes_nothing(pong, trained):
    newest = newest_checkpoint(trained)
    before = (newest / "policy.safetensors").read_bytes()
    result = ppo.train(pong, TINY, trained, seed=0, device=CPU, resume=True)
    assert result == ppo.TrainingResult(32, True, newest)
    assert (newest / "policy.safetensors").read_bytes() == before


def learnt(checkpoint: Path) -> int:
    """Environment steps of TINY behind a checkpoint, as the optimiser counts them."""
    count = load_tensors(checkpoint / "optimizer.safetensors")["0.step"].item()
    return int(count) * TINY.batch_size // TINY.n_epochs


def test_points_are_logged_once(pong, trained, logged_steps, lose_newest_checkpoint):
    lose_newest_checkpoint(trained)
    ppo.train(pong, TINY, trained, seed=0, device=CPU, resume=True)
    assert logged_steps(trained / "logs", "time/fps") == [16, 32]


def test_ctrl_c_saves_and_returns(tmp_path):
    class Interrupted(AtariVecEnv):
        def step_wait(self):
            if self._lengths[0] == 10:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step_wait()

    env = Interrupted(AtariConfig(game="pong"), 2, n_threads=1)
    result = ppo.train(env, TINY, tmp_path, seed=0, device=CPU)
    env.close()
    # The second rollout was cut short, so nothing was learnt from its steps.
    assert result == ppo.TrainingResult(16, False, newest_checkpoint(tmp_path))
    assert learnt(result.checkpoint) == 16
    env = AtariVecEnv(AtariConfig(game="pong"), 2, n_threads=1)
    result = ppo.train(env, TINY, tmp_path, seed=0, device=CPU, resume=True)
    env.close()
    assert result == ppo.TrainingResult(32, True, newest_checkpoint(tmp_path))
    assert learnt(result.checkpoint) == 32


def test_a_signal_while_the_last_checkpoint_is_written_waits(pong, tmp_path, monkeypatch):
    save = ppo.save

    def signalled(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return save(*args)

    monkeypatch.setattr(ppo, "save", signalled)
    config = replace(TINY, checkpoint_interval=1000)
    result = ppo.train(pong, config, tmp_path, seed=0, device=CPU)
    assert learnt(result.checkpoint) == 32


def test_a_checkpoint_that_a_kill_left_half_written_is_ignored(pong, trained):
    partial = trained / "checkpoints" / ".step_000000048"
    partial.mkdir()
    (partial / "policy.safetensors").write_bytes(b"half")
    assert newest_checkpoint(trained).name == "step_000000032"
    result = ppo.train(pong, LONGER, trained, seed=0, device=CPU, resume=True)
    assert result.n_timesteps == 64


def test_no_checkpoint_to_resume_from(pong, tmp_path):
    with pytest.raises(UserError, match="has no checkpoint yet"):
        ppo.train(pong, TINY, tmp_path, seed=0, device=CPU, resume=True)


@pytest.mark.parametrize("name", ["policy.safetensors", "optimizer.safetensors", "state.json"])
def test_truncated_and_missing_files(pong, trained, name):
    file = newest_checkpoint(trained) / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        ppo.train(pong, TINY, trained, seed=0, device=CPU, resume=True)
    file.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        ppo.train(pong, TINY, trained, seed=0, device=CPU, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_updates": None}, "n_updates is empty"),
        ({"recent_games": [{"r": 1.0}]}, r"key 'recent_games\[0\]\.l' is missing"),
    ],
)
def test_counters_that_cannot_be_used(pong, trained, change, message):
    path = newest_checkpoint(trained) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=rf"state\.json: {message}"):
        ppo.train(pong, TINY, trained, seed=0, device=CPU, resume=True)


def test_weights_with_each_parameter_once(pong, trained):
    """As ``agents/<game>/ppo.safetensors`` has them: SB3 lists the shared trunk three times."""
    stored = load_tensors(newest_checkpoint(trained) / "policy.safetensors")
    once = {name: t for name, t in stored.items() if not name.startswith(("pi_", "vf_"))}
    assert len(once) == 12 < len(stored)
    save_tensors(trained / "once.safetensors", once)
    model = ppo.build_ppo(pong, TINY, seed=3, device=CPU)
    ppo.load_weights(model, trained / "once.safetensors")
    torch.testing.assert_close(dict(model.policy.state_dict()), stored, rtol=0, atol=0)
    assert model.num_timesteps == 0
    for broken in ({**once, "extra": torch.zeros(1)}, dict(list(once.items())[1:])):
        save_tensors(trained / "broken.safetensors", broken)
        with pytest.raises(UserError, match=r"broken\.safetensors belongs to another network"):
            ppo.load_weights(model, trained / "broken.safetensors")


def test_a_run_that_breaks_is_no_traceback(pong, trained):
    """And its last checkpoint stays the last."""
    broken = replace(LONGER, learning_rate=1e38, schedule="constant")
    with pytest.raises(UserError, match=r"steps are not finite; .* lower --ppo\.learning-rate"):
        ppo.train(pong, broken, trained, seed=0, device=CPU, resume=True)
    assert newest_checkpoint(trained).name == "step_000000032"


def test_a_checkpoint_of_another_game(trained):
    env = AtariVecEnv(AtariConfig(game="breakout"), 2, n_threads=1)
    with pytest.raises(UserError, match="belongs to another network or game"):
        ppo.train(env, TINY, trained, seed=0, device=CPU, resume=True)
    env.close()


def test_rates_do_not_fall_below_nothing():
    """The last rollout ends beyond the last step, unless the steps are a multiple of it."""
    rate = scheduled(0.5, "linear")
    assert [rate(remaining) for remaining in (1.0, 0.5, 0.0, -0.3)] == [0.5, 0.25, 0, 0]
    assert scheduled(0.5, "constant") == 0.5
