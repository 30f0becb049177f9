"""What the phases learn from is what acts."""

from __future__ import annotations

import pytest
import torch

from tests.networks import early_exit_nature_cnn
from ztw_rl.rl.collector import Collector, Experience
from ztw_rl.rl.phases import EnsemblePhase, Epochs, ICPhase

N_ENVS, N_STEPS = 4, 3


@pytest.fixture
def collected(patch_games):
    """By a phase's name: the phase, and what it keeps of some steps."""

    def collect(exits, phase_name):
        torch.manual_seed(0)
        model = early_exit_nature_cnn(3, exits).eval()
        phases = {"ics": ICPhase(model, 8), "ensemble": EnsemblePhase(model.ensemble, 8)}
        phase = phases[phase_name]
        collector = Collector(
            model,
            patch_games(N_ENVS, size=84),
            n_steps=N_STEPS,
            behaviour="ics",
            action_modes=["greedy"],
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


N, N_EPOCHS, BATCH = 20, 3, 8


class Constant:
    """A phase with one parameter, the logit of the first of two actions, whatever is seen."""

    name = "constant"
    batch_size = BATCH

    def __init__(self):
        self.logit = torch.zeros((), requires_grad=True)
        self.seen = []

    def parameters(self):
        return [self.logit]

    def answers(self, ic_log_probs):
        return ic_log_probs

    def reads(self, activations):
        return ()

    def predict(self, experience, index):
        self.seen.append(index)
        logits = torch.stack([self.logit, torch.zeros(())])
        return torch.log_softmax(logits, -1).expand(len(index), 1, 2)


@pytest.fixture
def experience():
    teacher = torch.tensor([0.75, 0.25]).log().expand(N, 2)
    nothing = torch.zeros(N, dtype=torch.int64)
    return Experience(nothing, (), teacher.unsqueeze(1), teacher, nothing, nothing, nothing, [])


@pytest.fixture
def epochs(experience):
    def build():
        phase = Constant()
        optimizer = torch.optim.SGD(phase.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(0)
        return phase, Epochs(phase, experience, optimizer, N_EPOCHS, generator)

    return build


def test_each_pass_meets_every_sample_once(epochs):
    phase, learning = epochs()
    learning.finish()
    assert [len(index) for index in phase.seen] == [8, 8, 4] * N_EPOCHS
    for begin in range(0, 9, 3):
        assert torch.cat(phase.seen[begin : begin + 3]).sort().values.tolist() == list(range(N))
    assert not torch.equal(phase.seen[0], phase.seen[3])


def test_the_share_says_how_far_to_go(epochs):
    phase, learning = epochs()
    counts = []
    for share in (0.0, 0.1, 0.1, 0.5, 1.0, 1.0):
        learning.advance(share)
        counts.append(len(phase.seen))
    # Nine minibatches in all; 0.1 of them is part of one.
    assert counts == [0, 1, 1, 5, 9, 9]


def test_cut_up_or_at_once_the_result_is_the_same_also_without_gradients_around(epochs):
    (first, at_once), (second, cut) = epochs(), epochs()
    loss = at_once.finish()
    with torch.no_grad():
        for share in (0.2, 0.7):
            cut.advance(share)
        assert cut.finish() == loss
    assert first.logit == second.logit != 0


def test_one_step_and_its_loss_by_hand(epochs):
    phase, learning = epochs()
    learning.advance(0.01)
    # At logit 0, d KL / d logit = 1/2 - 3/4.
    assert phase.logit.item() == pytest.approx(0.1 * 0.25)
    for _ in range(200):
        _, again = epochs()
        again._phase.logit.data = phase.logit.data
        loss = again.finish()
    assert phase.logit.exp().item() == pytest.approx(3, rel=1e-3)
    assert loss == pytest.approx(0, abs=1e-6)
