from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.networks import early_exit_nature_cnn
from ztw_rl.core.checkpoint import newest_checkpoint
from ztw_rl.core.gates import greedy_regret, soft_regret
from ztw_rl.errors import UserError
from ztw_rl.rl import distill as module
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import DistillConfig
from ztw_rl.rl.distill import distill
from ztw_rl.rl.gates import TARGETS, GatePhase
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.rl.teacher import Provenance, Teacher

CPU = torch.device("cpu")
CONFIG = DistillConfig(
    n_timesteps=40,
    n_envs=4,
    n_steps=4,
    n_epochs=1,
    checkpoint_interval=1000,
    gate_timesteps=30,
    engine="eager",
)


class Stop:
    def __init__(self, after=10**9):
        self.left = after

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture
def teacher():
    torch.manual_seed(1)
    weights = early_exit_nature_cnn(3).state_dict()
    parameters = {n: t.clone() for n, t in weights.items() if n.startswith(("blocks.", "head."))}
    return Teacher(parameters, AtariConfig(), NetworkConfig(), Provenance(ppo_timesteps=7))


def test_which_gates_and_how_long():
    assert DistillConfig().gate_names == ("sampled", "greedy")
    assert DistillConfig().gate_steps == 200_000
    assert DistillConfig(n_timesteps=1000).gate_steps == 1000
    assert DistillConfig(gates="greedy").gate_names == ("greedy",)
    assert DistillConfig(n_timesteps=1000, gate_timesteps=2000).gate_steps == 2000
    with pytest.raises(UserError, match="gates must be none of a student"):
        DistillConfig(method="student", gates="greedy")
    none = DistillConfig(gates="none")
    assert (none.gate_names, none.gate_steps) == ((), 0)
    assert DistillConfig(method="student").gate_steps == 0
    assert {"sampled": soft_regret, "greedy": greedy_regret} == TARGETS


def test_samples_are_what_the_model_says(patch_games):
    torch.manual_seed(0)
    model = early_exit_nature_cnn(3, gates=("sampled", "greedy")).eval()
    games = patch_games(4, size=84)
    config = CONFIG
    seen = []
    samples = GatePhase(model, games, config, 3, CPU).collect(seen.append, Stop())
    assert len(samples) == 30
    assert seen == [16, 30]
    twin = patch_games(4, size=84)
    again = GatePhase(model, twin, config, 3, CPU).collect(lambda n: None, Stop())
    torch.testing.assert_close(vars(again), vars(samples))
    # The first four observations are the games' first.
    pixels = torch.from_numpy(patch_games(4, size=84).reset(range(3, 7)))
    with torch.no_grad():
        exits = list(model.exits(pixels))
        answers = model(pixels)
    torch.testing.assert_close(samples.full[:4], answers[:, -1])
    torch.testing.assert_close(samples.answers[:4], answers[:, :-1])
    for m in range(2):
        torch.testing.assert_close(samples.pooled[m][:4], exits[m].pooled.half())


def test_gates_are_fitted_last_and_change_nothing_else(teacher, patch_games, tmp_path):
    bare = distill(
        teacher,
        patch_games(4, size=84),
        replace(CONFIG, gates="none"),
        tmp_path / "bare",
        seed=0,
        device=CPU,
    )
    console = Console(file=io.StringIO(), width=200)
    full = distill(
        teacher,
        patch_games(4, size=84),
        CONFIG,
        tmp_path / "full",
        seed=0,
        device=CPU,
        console=console,
    )
    assert (bare.n_timesteps, full.n_timesteps) == (80, 110)
    gated = full.model.state_dict()
    for name, tensor in bare.model.state_dict().items():
        assert torch.equal(gated[name], tensor), name
    # Greedy regret may be 0 everywhere so early.
    for gate in full.model.gates_of("sampled"):
        assert gate.out.weight.abs().sum() > 0
    assert "sampled gates explain" in console.file.getvalue()
    log = EventAccumulator(str(tmp_path / "full/logs")).Reload()
    assert len(log.Scalars("gates/greedy_loss")) == 8
    assert {f"gates/{n}_explained/exit_1" for n in ("sampled", "greedy")} <= set(
        log.Tags()["scalars"]
    )


def test_a_stopped_phase_begins_anew(teacher, patch_games, tmp_path, monkeypatch):
    once = distill(teacher, patch_games(4, size=84), CONFIG, tmp_path / "once", seed=0, device=CPU)
    run = module.GatePhase.run
    monkeypatch.setattr(module.GatePhase, "run", lambda *args: False)
    stopped = distill(
        teacher, patch_games(4, size=84), CONFIG, tmp_path / "twice", seed=0, device=CPU
    )
    assert not stopped.finished
    assert stopped.n_timesteps == 80
    monkeypatch.setattr(module.GatePhase, "run", run)
    resumed = distill(
        teacher,
        patch_games(4, size=84),
        CONFIG,
        tmp_path / "twice",
        seed=0,
        device=CPU,
        resume=True,
    )
    assert resumed.finished
    assert newest_checkpoint(tmp_path / "twice").name == "step_000000110"
    before, after = once.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if not n.startswith("gates."))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_the_user_may_stop_it_at_any_time(patch_games, after):
    torch.manual_seed(0)
    model = early_exit_nature_cnn(3, gates=("sampled", "greedy")).eval()
    phase = GatePhase(model, patch_games(4, size=84), CONFIG, 0, CPU)

    class Silent:
        def __getattr__(self, name):
            return lambda *args, **kwargs: None

    assert not phase.run(0, Stop(after), Silent(), Silent())
    assert model.gates_of("greedy")[0].out.weight.abs().sum() == 0


def test_gates_alone(teacher, patch_games, tmp_path):
    first = distill(
        teacher, patch_games(4, size=84), CONFIG, tmp_path / "a", seed=0, device=CPU
    ).model.state_dict()
    fitted = {n: t.clone() for n, t in first.items() if not n.startswith("gates.")}
    config = replace(CONFIG, gates="greedy")
    second = distill(
        teacher, patch_games(4, size=84), config, tmp_path / "b", seed=9, device=CPU, fitted=fitted
    )
    assert second.n_timesteps == 30
    weights = second.model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in fitted.items())
    assert set(second.model.gates) == {"greedy"}
