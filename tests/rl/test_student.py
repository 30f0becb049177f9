"""The control without early exit: its size, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.networks import early_exit_nature_cnn, policy_alone
from ztw_rl.core.backends.eager import eager
from ztw_rl.core.checkpoint import newest_checkpoint
from ztw_rl.core.cost import count_macs, exit_costs
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import AgentConfig, agent_of, load_agent, policy_fingerprint, save_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import DistillConfig
from ztw_rl.rl.distill import build_early_exit_model, distill
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.networks.config import NATURE_WIDTHS, NetworkConfig
from ztw_rl.rl.rows import Full, Row
from ztw_rl.rl.student import exit_macs, macs, student_of, widths_for
from ztw_rl.rl.teacher import Provenance, Teacher, from_agent

CPU = torch.device("cpu")
PIXELS = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
EXITS = ("conv1", "conv2")


@pytest.mark.parametrize("widths", [NATURE_WIDTHS, (17, 34, 34, 305), (3, 5, 7, 11)])
def test_macs_as_counted(widths):
    model = policy_alone(6, widths).eval()
    assert macs(widths, 6) == count_macs(lambda: model.backbone(PIXELS))


@pytest.mark.parametrize("n_actions", [3, 6, 9, 18])
@pytest.mark.parametrize("place", EXITS)
def test_as_dear_as_the_exit_and_evenly_narrow(n_actions, place):
    target = exit_macs(n_actions, EXITS, place)
    costs = exit_costs(early_exit_nature_cnn(n_actions).eval(), PIXELS)
    assert target == costs.macs[EXITS.index(place)]
    widths = widths_for(target, n_actions)
    assert macs(widths, n_actions) == pytest.approx(target, rel=0.02)
    shares = [width / full for width, full in zip(widths, NATURE_WIDTHS, strict=True)]
    assert max(shares) < 1.2 * min(shares) < 1.2


def test_the_full_width_for_the_full_cost():
    assert widths_for(macs(NATURE_WIDTHS, 6), 6) == NATURE_WIDTHS


@pytest.fixture(scope="module")
def teacher():
    """Answers with the place of the brightest third, as ``PatchGames`` want it."""
    torch.manual_seed(0)
    model = policy_alone(3)
    x, places = pictures(512)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for index in torch.arange(512).split(64):
        loss = torch.nn.functional.cross_entropy(model.backbone(x[index]), places[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Teacher(model.state_dict(), AtariConfig(), NetworkConfig(), Provenance(ppo_timesteps=7))


def pictures(n):
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(3, (n,), generator=generator)
    x = torch.randint(0, 64, (n, 4, 84, 84), dtype=torch.uint8, generator=generator)
    for i, place in enumerate(places.tolist()):
        x[i, :, :, place * 28 : (place + 1) * 28] += 190
    return x, places


CONFIG = DistillConfig(
    method="student",
    n_timesteps=512,
    n_envs=8,
    n_steps=16,
    n_epochs=3,
    checkpoint_interval=1000,
    engine="eager",
)


@pytest.fixture(scope="module")
def distilled(teacher, patch_games, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("student")
    games = patch_games(8, size=84)
    result = distill(teacher, games, CONFIG, run_dir, seed=0, device=CPU)
    assert (result.n_timesteps, result.finished) == (512, True)
    return result.model, run_dir


def test_it_plays_as_well_as_its_teacher(distilled, teacher, patch_games):
    model, _ = distilled
    alone = student_of(model).policy.eval()
    # Random play gets a third of a game's ten points.
    settings = {"n_episodes": 8, "seed": 100, "action_mode": "greedy", "device": CPU}
    (result,) = play(eager(alone), [patch_games(8, size=84)], [Row(Full())], **settings)
    assert np.mean(result.returns) > 9
    x, places = pictures(64)
    with torch.no_grad():
        assert (alone.backbone(x).argmax(-1) == places).float().mean() > 0.9
        taught = model(x)[:, -1].argmax(-1)
    assert (taught == places).float().mean() > 0.9


def test_the_teacher_stays_as_it_was(distilled, teacher):
    model, _ = distilled
    # The blocks' numbers are shifted by the student's place before them.
    state = model.state_dict()
    assert torch.equal(state["blocks.2.0.weight"], teacher.parameters["blocks.1.0.weight"])
    assert torch.equal(state["head.weight"], teacher.parameters["head.weight"])


def test_it_acts_itself_and_all_of_it_learns(teacher, patch_games, tmp_path):
    torch.manual_seed(0)
    config = replace(CONFIG, n_timesteps=128)
    student = student_of(build_early_exit_model(teacher, config))
    begin = student.state_dict()
    seen = torch.from_numpy(patch_games(8, size=84).reset(np.arange(8)))
    with torch.no_grad():
        wanted = student(seen).argmax(-1)
    games = patch_games(8, size=84)
    result = distill(teacher, games, config, tmp_path, seed=0, device=CPU)
    end = student_of(result.model).state_dict()
    assert not [name for name in begin if torch.equal(begin[name], end[name])]
    assert games.sent[0].tolist() == wanted.tolist()


def test_it_begins_as_policies_of_sb3_do(teacher):
    torch.manual_seed(0)
    policy = student_of(build_early_exit_model(teacher, CONFIG)).policy
    weights = {n: p for n, p in policy.named_parameters() if n.endswith("weight")}
    assert len(weights) == 5
    for name, weight in weights.items():
        rows = weight.flatten(1)
        gain = 0.01**2 if name == "head.weight" else 2
        torch.testing.assert_close(rows @ rows.T, gain * torch.eye(len(rows)), atol=1e-4, rtol=0)
    biases = [p for n, p in policy.named_parameters() if n.endswith("bias")]
    assert len(biases) == 5
    assert not any(bias.any() for bias in biases)
    assert weights["blocks.1.0.weight"].is_contiguous(memory_format=torch.channels_last)


def test_resuming_a_finished_run_changes_nothing(distilled, teacher, patch_games):
    model, run_dir = distilled
    assert newest_checkpoint(run_dir).name == "step_000000512"
    again = distill(
        teacher, patch_games(8, size=84), CONFIG, run_dir, seed=0, device=CPU, resume=True
    )
    for name, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


def test_as_an_agents_folder(tmp_path):
    config = AgentConfig(
        atari=AtariConfig(),
        n_actions=6,
        exits=(),
        method="student",
        provenance=Provenance(teacher="0123456789abcdef"),
        student_of="conv1",
        network=NetworkConfig(widths=(17, 34, 34, 305)),
    )
    agent = agent_of(config, policy_alone(6, config.network.widths).eval())
    save_agent(tmp_path, agent)
    loaded = load_agent(tmp_path)
    assert loaded.config == config
    assert loaded.identity() == agent.identity()
    assert loaded.identity().policy == "0123456789abcdef"
    assert loaded.relative_macs() == pytest.approx([0.376], abs=0.001)
    with pytest.raises(UserError, match="is a student, a copy of another policy"):
        from_agent(tmp_path)


def test_early_exit_agents_are_told_by_their_policy_whatever_the_method():
    torch.manual_seed(0)
    weights = policy_alone(6).state_dict()
    found = set()
    for method in ("ztw", "sdn"):
        config = AgentConfig(6, EXITS, method, atari=AtariConfig())
        model = build_early_exit_model(
            Teacher(weights, AtariConfig(), NetworkConfig(), Provenance()),
            DistillConfig(method=method),
        )
        found.add(agent_of(config, model).identity())
    assert {identity.policy for identity in found} == {policy_fingerprint(weights)}
    assert len({identity.agent for identity in found}) == 2


def test_an_exit_that_does_not_exist():
    with pytest.raises(UserError, match=r"student_of must be one of exits \(conv1, conv2\)"):
        DistillConfig(method="student", student_of="conv3")
