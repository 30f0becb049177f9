"""Distillation: what is fitted, when, and what must stay as it was."""

from __future__ import annotations

import io
import os
import signal
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.networks import early_exit_nature_cnn
from ztw_rl.core.checkpoint import checkpoints, load_tensors, newest_checkpoint
from ztw_rl.core.training import N_LOOKS
from ztw_rl.errors import UserError
from ztw_rl.rl import distill as module
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import DistillConfig
from ztw_rl.rl.distill import build_early_exit_model, distill, rate_groups
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.phases import build_phases
from ztw_rl.rl.teacher import Provenance, Teacher

CPU = torch.device("cpu")
N_ENVS = 4
TINY = DistillConfig(
    n_timesteps=48,
    n_envs=N_ENVS,
    n_steps=4,
    n_epochs=2,
    ic_batch_size=8,
    ensemble_batch_size=8,
    checkpoint_interval=1000,
    gates="none",
    engine="eager",
)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(1)
    model = early_exit_nature_cnn(3)
    parameters = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if name.startswith(("blocks.", "head."))
    }
    return Teacher(parameters, AtariConfig(), NetworkConfig(), Provenance(ppo_timesteps=7))


@pytest.fixture
def games(patch_games):
    return patch_games(N_ENVS, size=84)


def run(teacher, games, run_dir, config=TINY, **settings):
    return distill(teacher, games, config, run_dir, **{"seed": 0, "device": CPU, **settings})


def changed(before, after, prefix):
    """Names under ``prefix`` of which a single bit differs."""
    assert before.keys() == after.keys()
    return [
        name
        for name in before
        if name.startswith(prefix) and not torch.equal(before[name], after[name])
    ]


def test_each_phase_changes_its_own_part_and_nothing_else(teacher, games, tmp_path):
    untouched = {name: tensor.clone() for name, tensor in teacher.parameters.items()}
    torch.manual_seed(0)
    begin = build_early_exit_model(teacher, TINY).state_dict()
    result = run(teacher, games, tmp_path)
    assert (result.n_timesteps, result.finished) == (96, True)
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000000048", "step_000000096"]
    middle, end = (load_tensors(p / "model.safetensors") for p in checkpoints(tmp_path))

    # The second IC's map is smaller than 4×4, so nothing is pooled.
    ics = [n for n in begin if n.startswith("ics.") and n != "ics.1.pool.gamma"]
    assert changed(begin, middle, "ics.") == ics
    assert changed(begin, middle, "ensemble.") == []
    assert changed(middle, end, "ics.") == []
    assert len(changed(middle, end, "ensemble.")) == 2
    for state in (begin, middle, end, result.model.state_dict()):
        backbone = {name: state[name] for name in teacher.parameters}
        assert changed(untouched, backbone, "") == []
    assert changed(untouched, dict(teacher.parameters), "") == []
    assert changed(end, result.model.state_dict(), "") == []
    assert not any(p.requires_grad for p in result.model.parameters())


def test_the_trunk_runs_once_per_step_and_never_again(teacher, games, tmp_path, monkeypatch):
    seen = []

    def watched(*args):
        model = build_early_exit_model(*args)
        for i, block in enumerate(model.blocks):
            block.register_forward_hook(lambda m, args, out, i=i: seen.append((i, len(out))))
        return model

    monkeypatch.setattr(module, "build_early_exit_model", watched)
    run(teacher, games, tmp_path, TINY)
    n_samples = [sum(n for i, n in seen if i == block) for block in range(5)]
    assert n_samples == [96] * 5


@pytest.mark.parametrize(
    ("method", "phases"), [("ztw", 2), ("ensemble", 2), ("sdn", 1), ("cascade", 1)]
)
def test_methods_have_the_phases_they_need(teacher, games, tmp_path, method, phases):
    config = replace(TINY, method=method, n_timesteps=16)
    result = run(teacher, games, tmp_path, config)
    assert result.n_timesteps == 16 * phases
    assert (result.model.ensemble is None) == (phases == 1)


@pytest.mark.parametrize(("method", "bare"), [("ztw", "cascade"), ("ensemble", "sdn")])
def test_ensembles_come_after_ics_that_know_nothing_of_them(teacher, games, tmp_path, method, bare):
    config = replace(TINY, n_timesteps=32)
    whole, alone = (
        run(teacher, games, tmp_path / name, replace(config, method=name)).model.state_dict()
        for name in (method, bare)
    )
    ics = {name: t for name, t in whole.items() if not name.startswith("ensemble.")}
    torch.testing.assert_close(ics, alone, rtol=0, atol=0)


def scalars(run_dir):
    """Tag to [(step, value)] of a run's logs."""
    found = EventAccumulator(str(run_dir / "logs")).Reload()
    return {
        tag: [(e.step, round(e.value, 6)) for e in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_rates_follow_each_phases_own_progress(teacher, games, tmp_path):
    config = replace(TINY, n_timesteps=64, learning_rates=(0.01, 0.001), milestones=(0.5,))
    run(teacher, games, tmp_path, config)
    logged = scalars(tmp_path)
    rates = [0.01, 0.01, 0.001, 0.001]
    assert logged["ics/learning_rate"] == list(zip((16, 32, 48, 64), rates, strict=True))
    assert logged["ensemble/learning_rate"] == list(zip((80, 96, 112, 128), rates, strict=True))
    assert {"ics/loss", "ics/agreement/exit_0", "ics/agreement/exit_1"} <= logged.keys()


def test_what_reads_pixels_learns_at_rates_of_its_own(teacher):
    config = replace(TINY, exits=("input", "conv1"), pixel_learning_rates=(0.5, 0.3, 0.1))
    model = build_early_exit_model(teacher, config)
    ics, ensembles = build_phases(model, config)
    features, pixels = rate_groups(ics, config)
    assert (features["setting"], features["rates"]) == ("learning_rates", config.learning_rates)
    assert (pixels["setting"], pixels["rates"]) == ("pixel_learning_rates", (0.5, 0.3, 0.1))
    assert list(map(id, pixels["params"])) == list(map(id, model.ics[0].parameters()))
    assert list(map(id, features["params"])) == list(map(id, model.ics[1].parameters()))
    (only,) = rate_groups(ensembles, config)
    assert only["rates"] == config.learning_rates


def test_a_student_reads_pixels(teacher):
    config = replace(TINY, method="student")
    (phase,) = build_phases(build_early_exit_model(teacher, config), config)
    (only,) = rate_groups(phase, config)
    assert only["rates"] == config.pixel_learning_rates
    assert len(only["params"]) == len(list(phase.parameters()))


def test_each_group_follows_its_rates(teacher, games, tmp_path):
    config = replace(TINY, exits=("input", "conv1"), pixel_learning_rates=(1e-9,) * 3)
    torch.manual_seed(0)
    before = build_early_exit_model(teacher, config).state_dict()
    after = run(teacher, games, tmp_path, config).model.state_dict()
    moved = {n: (after[n] - before[n]).abs().max().item() for n in before if n.startswith("ics.")}
    assert max(by for name, by in moved.items() if name.startswith("ics.0.")) < 1e-6
    assert min(by for name, by in moved.items() if name.startswith("ics.1.")) > 1e-3


def test_the_same_seed_gives_the_same_agent_and_another_seed_another(
    teacher, patch_games, tmp_path
):
    config = replace(TINY, n_timesteps=16)

    def weights(name, seed):
        games = patch_games(N_ENVS, size=84)
        return run(teacher, games, tmp_path / name, config, seed=seed).model.state_dict()

    first = weights("a", 0)
    assert changed(first, weights("b", 0), "") == []
    assert changed(first, weights("c", 1), "ics.")


def test_ctrl_c_saves_and_a_resumed_run_goes_on(teacher, patch_games, tmp_path):
    class Interrupted(patch_games):
        def send(self, actions):
            super().send(actions)
            if len(self.sent) == 6:
                os.kill(os.getpid(), signal.SIGINT)

    result = run(teacher, Interrupted(N_ENVS, size=84), tmp_path)
    assert (result.n_timesteps, result.finished) == (32, False)
    assert newest_checkpoint(tmp_path).name == "step_000000032"
    before = load_tensors(newest_checkpoint(tmp_path) / "model.safetensors")

    games = patch_games(N_ENVS, size=84)
    result = run(teacher, games, tmp_path, resume=True)
    assert (result.n_timesteps, result.finished) == (96, True)
    assert len(games.sent) == (96 - 32) // N_ENVS
    # Other games than the first session's.
    assert games.started == [(i, 32 + i) for i in range(N_ENVS)]
    # Files that were begun in the same second are read in any order.
    steps = sorted(step for step, _ in scalars(tmp_path)["ics/loss"])
    assert steps == [16, 32, 48]
    assert changed(before, result.model.state_dict(), "ics.")


@pytest.mark.parametrize("stop_at", [48, 64])
def test_a_run_resumed_in_its_second_phase_leaves_the_ics_alone(
    teacher, patch_games, tmp_path, stop_at
):
    class Interrupted(patch_games):
        def send(self, actions):
            super().send(actions)
            if len(self.sent) == stop_at // N_ENVS:
                os.kill(os.getpid(), signal.SIGINT)

    assert run(teacher, Interrupted(N_ENVS, size=84), tmp_path).n_timesteps == stop_at
    before = load_tensors(newest_checkpoint(tmp_path) / "model.safetensors")
    result = run(teacher, patch_games(N_ENVS, size=84), tmp_path, resume=True)
    assert result.finished
    assert changed(before, result.model.state_dict(), "ics.") == []
    assert len(changed(before, result.model.state_dict(), "ensemble.")) == 2


def test_resuming_a_finished_run_plays_nothing(teacher, games, patch_games, tmp_path):
    done = run(teacher, games, tmp_path).model.state_dict()
    again = patch_games(N_ENVS, size=84)
    result = run(teacher, again, tmp_path, resume=True)
    assert (result.n_timesteps, result.finished, again.sent) == (96, True, [])
    assert changed(done, result.model.state_dict(), "") == []


def test_points_are_logged_once(teacher, games, tmp_path, logged_steps, lose_newest_checkpoint):
    run(teacher, games, tmp_path)
    lose_newest_checkpoint(tmp_path)
    run(teacher, games, tmp_path, resume=True)
    assert logged_steps(tmp_path / "logs", "ics/loss") == [16, 32, 48]
    assert logged_steps(tmp_path / "logs", "ensemble/loss") == [64, 80, 96]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_checkpoints(teacher, games, tmp_path, name):
    run(teacher, games, tmp_path, replace(TINY, n_timesteps=16))
    path = newest_checkpoint(tmp_path) / name
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{name} is damaged"):
        run(teacher, games, tmp_path, resume=True)


def test_counters_that_cannot_be_used(teacher, games, tmp_path):
    run(teacher, games, tmp_path, replace(TINY, n_timesteps=16))
    (newest_checkpoint(tmp_path) / "state.json").write_text('{"n_batches": 3}')
    with pytest.raises(UserError, match=r"state\.json: unknown key 'n_batches'"):
        run(teacher, games, tmp_path, resume=True)


def test_a_checkpoint_of_another_network(teacher, games, tmp_path):
    run(teacher, games, tmp_path, replace(TINY, n_timesteps=16))
    with pytest.raises(UserError, match=r"model.safetensors belongs to another network"):
        run(teacher, games, tmp_path, replace(TINY, exits=("conv1",)), resume=True)


def test_nothing_to_resume_from(teacher, games, tmp_path):
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run(teacher, games, tmp_path, resume=True)


LONG_ENOUGH = replace(TINY, n_timesteps=16 * N_LOOKS, learning_rates=(1e-4,) * 3)


@pytest.mark.parametrize(
    ("changes", "silenced", "who", "setting"),
    [
        ({}, "ics.1.conv.bias", "exit 1", "learning_rates"),
        (
            {"exits": ("input", "conv1")},
            "ics.0.convs.2.bias",
            "exit 0",
            "pixel_learning_rates",
        ),
        ({"exits": ("input", "conv1")}, "ics.1.conv.bias", "exit 1", "learning_rates"),
        (
            {"method": "student"},
            "ics.0.policy.blocks.3.0.bias",
            "the student",
            "pixel_learning_rates",
        ),
    ],
)
def test_what_falls_silent_is_told_once(
    teacher, games, tmp_path, monkeypatch, changes, silenced, who, setting
):
    def with_a_closed_layer(*args):
        model = build_early_exit_model(*args)
        torch.nn.init.constant_(model.get_parameter(silenced), -1e6)
        return model

    monkeypatch.setattr(module, "build_early_exit_model", with_a_closed_layer)
    shown = io.StringIO()
    config = replace(LONG_ENOUGH, **changes)
    run(teacher, games, tmp_path, config, console=Console(file=shown, width=80))
    wanted = (
        f"warning: a layer of {who} answers 0 to everything and has stopped learning; "
        f"a new run with lower distill.{setting} may keep it alive"
    )
    assert [line for line in shown.getvalue().splitlines() if "warning" in line] == [wanted]
    (kept,) = EventAccumulator(str(tmp_path / "logs")).Reload().Tensors("warnings/text_summary")
    assert (kept.step, kept.tensor_proto.string_val[0].decode()) == (16 * N_LOOKS, wanted)


def test_exits_that_learn_are_not_warned_of(teacher, games, tmp_path):
    shown = io.StringIO()
    config = replace(LONG_ENOUGH, exits=("input", "conv1", "conv2"), checkpoint_interval=16)
    run(teacher, games, tmp_path, config, console=Console(file=shown, width=80))
    assert "step" in shown.getvalue()
    assert "warning" not in shown.getvalue()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_run_that_breaks_is_no_success(teacher, games, tmp_path):
    with pytest.raises(UserError, match=r"weights of ics are no finite numbers after \d+ steps"):
        run(teacher, games, tmp_path, replace(TINY, learning_rates=(1e38, 1e38, 1e38)))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_a_last_step_that_breaks_the_weights(teacher, games, tmp_path):
    """The losses before it say nothing of it."""
    one_step = replace(
        TINY, n_timesteps=16, n_epochs=1, ic_batch_size=16, learning_rates=(1e38, 1e38, 1e38)
    )
    with pytest.raises(UserError, match="loss or weights of ics"):
        run(teacher, games, tmp_path, one_step)
    assert not list(tmp_path.rglob("*.safetensors"))
