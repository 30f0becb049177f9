"""The public face, on shipped agents and on exported files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy

import ztw_rl
from ztw_rl import UserError
from ztw_rl.core.exits import Exceeds, Patience, select
from ztw_rl.rl.agent import load_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv

ROOT = Path(__file__).parents[1]
AGENT = ROOT / "agents" / "breakout"


@pytest.fixture(scope="module")
def frames():
    env = AtariVecEnv(AtariConfig(game="breakout"), 8, seed=1)
    env.reset()
    rng = np.random.default_rng(0)
    for _ in range(20):
        observations, *_ = env.step(rng.integers(4, size=8))
    env.close()
    return observations


@pytest.fixture
def answers(frames):
    with torch.no_grad():
        return load_agent(AGENT).model(torch.from_numpy(frames))


def test_nothing_heavy_is_imported_at_first():
    code = "import sys, ztw_rl; sys.exit(any(m in sys.modules for m in ('torch', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(dir(ztw_rl)) >= {"load", "EarlyExit", "Decision", "UserError"}
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = ztw_rl.lode


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        ({"threshold": 0.4}, Exceeds.uniform(0.4, 4)),
        ({"rule": "patience", "threshold": 2}, Patience(torch.tensor(2))),
        ({"rule": "full"}, Exceeds.forced(torch.full((8,), 3), 4)),
    ],
)
def test_it_decides_as_the_exit_rule_says(frames, answers, how, rule):
    exits, _ = select(answers, rule)
    decision = ztw_rl.load("breakout", **how).decide(frames)
    assert decision.exits.tolist() == exits.tolist()
    wanted = answers[torch.arange(8), exits]
    np.testing.assert_allclose(decision.log_probs, wanted, atol=1e-4)
    assert decision.actions.tolist() == wanted.argmax(-1).tolist()


def test_one_observation_in_any_layout(frames):
    agent = ztw_rl.load("breakout", threshold=0.4)
    batch = agent.decide(frames)
    one = frames[2]
    for given in (one, one.transpose(1, 2, 0), torch.from_numpy(one)):
        decision = agent.decide(given)
        assert decision.actions.shape == decision.exits.shape == ()
        assert (decision.actions, decision.exits) == (batch.actions[2], batch.exits[2])
        action, state = agent.predict(given, deterministic=True)
        assert (action.shape, state) == ((), None)
    assert agent.predict(frames)[0].shape == (8,)
    assert len({int(agent.predict(one)[0]) for _ in range(100)}) > 1


def test_sb3_evaluates_it():
    env = AtariVecEnv(AtariConfig(game="breakout", max_frames=64), n_envs=2)
    agent = ztw_rl.load("breakout", threshold=0.4)
    returns, lengths = evaluate_policy(
        agent, env, n_eval_episodes=2, return_episode_rewards=True, warn=False
    )
    env.close()
    assert len(returns) == len(lengths) == 2


def test_without_a_wish_it_runs_at_what_export_proposes(capsys):
    from ztw_rl import cli

    assert re.search(r"^EarlyExit\('pong'\): .* keeps .* of the full network's time", shown())
    assert cli.main(["export", "--agent=pong", f"--output={'pong.zip'}"]) == 0
    (line,) = re.findall(r".* keeps .* of the full network's time.*", capsys.readouterr().out)
    assert line in shown()


def shown() -> str:
    return repr(ztw_rl.load("pong"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_an_exported_file_answers_alike(frames):
    agent = ztw_rl.load("breakout", budget=0.5)
    assert "is chosen on all" in repr(agent)
    agent.export("breakout.zip")
    file = ztw_rl.load("breakout.zip")
    assert file.labels == agent.labels == ["NOOP", "FIRE", "RIGHT", "LEFT"]
    assert repr(file).startswith("EarlyExit('breakout.zip'): thresholds ")
    assert file.decide(frames).exits.tolist() == agent.decide(frames).exits.tolist()
    agent.export("other.zip", threshold=0.0)
    assert ztw_rl.load("other.zip").decide(frames).exits.tolist() == [0] * 8
    assert ztw_rl.load("other.zip", threshold=1).decide(frames[0]).exits == 3
    with pytest.raises(UserError, match=r"1\.5 is no confidence"):
        agent.export("never.zip", threshold=1.5)
    with pytest.raises(
        UserError, match="no format 'tflite'; choose from onnx, onnx-stages, litert, aoti"
    ):
        agent.export("never.zip", format="tflite")
    ztw_rl.load("breakout", rule="full").export("full.zip")
    assert ztw_rl.load("full.zip").decide(frames).exits.tolist() == [3] * 8
    with pytest.raises(UserError, match="a file leaves by confidence; give threshold"):
        ztw_rl.load("breakout", rule="patience", threshold=2).export("never.zip")
    assert not Path("never.zip").exists()
    with pytest.raises(UserError, match="is an exported file already"):
        file.export("again.zip")
    for wish, message in (
        ({"keep": 0.9}, "breakout.zip knows no keep"),
        ({"rule": "full"}, "breakout.zip brings its own rule"),
        ({"backend": "onnx"}, "brings its own backend"),
    ):
        with pytest.raises(UserError, match=message):
            ztw_rl.load("breakout.zip", **wish)


@pytest.mark.parametrize(
    ("source", "how", "message"),
    [
        ("braekout", {}, "no agent 'braekout'; did you mean 'breakout'"),
        ("breakout", {"rule": "confident"}, "no rule 'confident'; choose from confidence, "),
        ("breakout", {"threshold": 1.5}, "1.5 is no confidence, which lies between 0 and 1"),
        ("breakout", {"threshold": float("nan")}, "threshold must be a finite number, not nan"),
        ("breakout", {"threshold": "0.9"}, "threshold must be a finite number, not '0.9'"),
        ("breakout", {"keep": True}, "keep must be a finite number, not True"),
        (None, {}, "source must be a name or a path, not None"),
        (
            "breakout",
            {"rule": "patience", "threshold": float("inf")},
            "threshold must be a finite number, not inf",
        ),
        ("breakout", {"keep": 0.9, "budget": 0.5}, "keep and budget exclude one another"),
        ("breakout", {"rule": "full", "keep": 0.9}, "no exits to choose; leave out keep"),
        ("breakout", {"rule": "patience"}, "a whole number from 1 to 4, not None"),
        ("breakout", {"rule": "patience", "threshold": 2.5}, "a whole number from 1 to 4, not 2.5"),
        ("breakout", {"rule": "patience", "budget": 0.5}, "leave out budget"),
        ("breakout", {"backend": "jit"}, "unknown backend 'jit'"),
        ("breakout", {"budget": 0.01}, "--budget 0.01 is below the lowest cost"),
    ],
)
def test_mistakes_have_one_line(source, how, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        ztw_rl.load(source, **how)
    assert "\n" not in str(caught.value)


def test_readmes_example(frames):
    """Its lines, with frames for those that a user has."""
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(import ztw_rl\n.*?)```", text, re.DOTALL)
    scope = {"frames": np.zeros((8, 4, 84, 84), np.uint8)}
    exec(compile(example, "README.md", "exec"), scope)
    assert scope["decision"].exits.shape == (8,)
