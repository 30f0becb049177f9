from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ztw_rl.core.checkpoint import load_tensors
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Agent,
    AgentConfig,
    Provenance,
    agent_of,
    build_model,
    load_agent,
    save_agent,
)
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.networks.config import NetworkConfig

CONFIG = AgentConfig(
    atari=AtariConfig(game="ms_pacman", pixels="sb3", repeat_action_probability=0.25),
    n_actions=9,
    exits=("conv1", "conv3"),
    method="ztw",
    provenance=Provenance(ppo_timesteps=10, ppo_seed=1, distill_timesteps=20, distill_seed=2),
)


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return Agent(CONFIG, build_model(CONFIG).eval())


@pytest.mark.parametrize(
    ("method", "exits", "pixel_head"),
    [
        *((method, ("conv1", "conv2"), "windows") for method in ("ztw", "sdn", "cascade")),
        ("ensemble", ("conv1", "conv2"), "windows"),
        ("ztw", ("input", "conv1"), "patches"),
    ],
)
def test_an_agent_comes_back(tmp_path, method, exits, pixel_head):
    config = AgentConfig(6, exits, method, atari=AtariConfig(), pixel_head=pixel_head)
    agent = Agent(config, build_model(config))
    save_agent(tmp_path / "agent", agent, torch.float32)
    loaded = load_agent(tmp_path / "agent")
    assert loaded.config == config
    assert not loaded.model.training
    x = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded.model(x), agent.model.eval()(x))


@pytest.mark.parametrize(("method", "bare"), [("ztw", "cascade"), ("ensemble", "sdn")])
def test_an_agent_without_its_ensembles(method, bare):
    config = AgentConfig(6, ("conv1", "conv2"), method, atari=AtariConfig())
    torch.manual_seed(0)
    agent = Agent(config, build_model(config).eval())
    torch.manual_seed(0)
    other = replace(config, method=bare)
    expected = Agent(other, build_model(other).eval())
    found = agent.without_ensembles()
    assert found.config == other
    assert found.identity() == expected.identity() != agent.identity()
    assert found.identity().policy == agent.identity().policy
    assert found.relative_macs() == expected.relative_macs()
    x = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(found.model(x), expected.model(x))
    with pytest.raises(ValueError, match=f"{bare} is no other method with ensembles"):
        found.without_ensembles()


def test_settings_come_back(agent, tmp_path):
    save_agent(tmp_path, agent)
    assert load_agent(tmp_path).config == CONFIG


def test_weights_are_halves_on_disk_and_floats_in_use(agent, tmp_path):
    save_agent(tmp_path, agent)
    assert {t.dtype for t in load_tensors(tmp_path / WEIGHTS_FILE).values()} == {torch.float16}
    n = sum(p.numel() for p in agent.model.parameters())
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 2 * n + 10_000
    loaded = load_agent(tmp_path).model
    for a, b in zip(loaded.parameters(), agent.model.parameters(), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_no_value_net_and_no_pickle(agent, tmp_path):
    save_agent(tmp_path, agent)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]
    assert not [name for name in load_tensors(tmp_path / WEIGHTS_FILE) if "value" in name]


def rewrite(folder, **changes):
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "agent.json is no agent of format 2"),
        ({"format": None}, "agent.json is no agent of format 2"),
        ({"n_actions": "nine"}, "n_actions is 'nine' (text), expected a whole number"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"exits": ["conv9"]}, "exits must be some of input, conv1"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"n_actions": 6}, "weights.safetensors does not fit"),
        ({"method": "sdn"}, "weights.safetensors does not fit"),
        ({"exits": ["conv1"]}, "weights.safetensors does not fit"),
    ],
)
def test_configs_that_do_not_fit(agent, tmp_path, changes, message):
    save_agent(tmp_path, agent)
    rewrite(tmp_path, **changes)
    with pytest.raises(UserError) as raised:
        load_agent(tmp_path)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_missing_and_truncated_files(agent, tmp_path, name):
    save_agent(tmp_path, agent)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        load_agent(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        load_agent(tmp_path)


def test_an_agent_of_format_1(tmp_path):
    """Networks were all NatureCNNs then, and told by their widths."""
    config = AgentConfig(
        6, (), "student", network=NetworkConfig(widths=(8, 16, 16, 32)), atari=AtariConfig()
    )
    save_agent(tmp_path, agent_of(config, build_model(config)))
    stored = json.loads((tmp_path / "agent.json").read_text())
    del stored["network"], stored["env"]
    stored |= {"format": 1, "widths": [8, 16, 16, 32]}
    (tmp_path / "agent.json").write_text(json.dumps(stored))
    assert load_agent(tmp_path).config == config
