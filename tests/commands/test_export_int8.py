"""``export --weights int8``: on an agent's own observations."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from ztw_rl import cli, deploy
from ztw_rl.rl import rounding
from ztw_rl.rl.agent import Agent, AgentConfig, build_model, save_agent
from ztw_rl.rl.atari.config import AtariConfig

EXPORT = ["export", "--agent=agent", "--threshold=0.5"]


@pytest.fixture(autouse=True)
def agent(tmp_path, monkeypatch) -> None:
    """An agent with random weights in an otherwise empty current directory, and few frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rounding, "N_OBSERVATIONS", 64)
    torch.manual_seed(0)
    config = AgentConfig(atari=AtariConfig(), n_actions=6, exits=("conv1", "conv2"), method="ztw")
    save_agent(Path("agent"), Agent(config, build_model(config)))


def test_weights_of_eight_bits(capsys, monkeypatch):
    monkeypatch.setattr(rounding, "MOST_CHANGED", 1.0)
    assert cli.main([*EXPORT, "--weights=int8", "--output=small.tflite"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"int8 weights change some exit's action at \d+\.\d\d% of 512 obs", told)
    assert cli.main([*EXPORT, "--output=large.tflite"]) == 0
    small, large = (Path(name).stat().st_size for name in ("small.tflite", "large.tflite"))
    # Three of four bytes of the wide layer's 3136 x 512 weights.
    assert large - small == pytest.approx(3 * 3136 * 512, rel=0.01)
    metadata = deploy.load("small.tflite").metadata
    assert (metadata["weights"], metadata["weights_checked"]["n_observations"]) == ("int8", 512)
    x = np.zeros((3, 4, 84, 84), np.uint8)
    found, exact = (deploy.load(f"{name}.tflite").predict(x, 2.0) for name in ("small", "large"))
    np.testing.assert_allclose(found.log_probs, exact.log_probs, atol=0.05)
    assert (found.log_probs != exact.log_probs).any()


def test_weights_that_change_too_much(capsys, monkeypatch):
    monkeypatch.setattr(rounding, "MOST_CHANGED", -1.0)
    assert cli.main([*EXPORT, "--weights=int8", "--output=pong.tflite"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(
        r"error: int8 weights change .*, more than .*; leave out --weights\n", error
    )
    assert not Path("pong.tflite").exists()


def test_a_format_without_such_weights(capsys):
    assert cli.main([*EXPORT, "--weights=int8", "--output=pong.zip"]) == 2
    error = capsys.readouterr().err
    assert error == "error: the format onnx-stages has no int8 weights; take the format litert\n"
