"""What the phases learn from is what acts."""

from __future__ import annotations

import pytest
import torch

from ztw_rl.rl.collector import Collector
from ztw_rl.rl.networks import early_exit_nature_cnn
from ztw_rl.rl.phases import EnsemblePhase, ICPhase

N_ENVS, N_STEPS = 4, 3


@pytest.fixture
def collected(patch_games):
    """By a phase's name: the phase, and what it keeps of some steps."""

    def collect(exits, stage_name):
        torch.manual_seed(0)
        model = early_exit_nature_cnn(3, exits).eval()
        phases = {"ics": ICPhase(model, 8), "ensemble": EnsemblePhase(model.ensemble, 8)}
        phase = phases[stage_name]
        collector = Collector(
            model,
            patch_games(N_ENVS, size=84),
            n_steps=N_STEPS,
            behaviour="ics",
            action_mode="greedy",
            seed=0,
            device=torch.device("cpu"),
        )
        return model, phase, collector.collect(phase.answers, phase.reads)

    return collect


@pytest.mark.parametrize("exits", [("conv1", "conv2"), ("input", "conv1", "conv3")])
@pytest.mark.parametrize("name", ["ics", "ensemble"])
def test_it_learns_from_the_very_answers_that_acted(collected, exits, name):
    model, phase, experience = collected(exits, name)
    index = torch.tensor([7, 0, 11, 3])
    predicted = phase.predict(experience, index)
    assert predicted.requires_grad
    with torch.no_grad():
        acted = phase.answers(experience.ic_log_probs)[index]
        anew = model.alone(experience.observations[index])[:, :-1]
    torch.testing.assert_close(predicted, acted)
    torch.testing.assert_close(experience.ic_log_probs[index], anew)


def test_nothing_is_kept_twice(collected):
    """Pixels are in the observations already; a float of each would be four times as much."""
    _, _, experience = collected(("input", "conv1"), "ics")
    (patches,) = experience.reads
    # 5×5 places of 3×3 windows on 32 channels.
    assert patches.shape == (N_ENVS * N_STEPS, 25, 288)
    _, _, experience = collected(("input", "conv1"), "ensemble")
    assert experience.reads == ()
