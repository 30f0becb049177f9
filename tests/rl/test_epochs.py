"""Passes over an experience: every sample once a pass, and the same however they are cut up."""

from __future__ import annotations

import pytest
import torch

from ztw_rl.rl.collector import Experience
from ztw_rl.rl.epochs import Epochs

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
        again._stage.logit.data = phase.logit.data
        loss = again.finish()
    assert phase.logit.exp().item() == pytest.approx(3, rel=1e-3)
    assert loss == pytest.approx(0, abs=1e-6)
