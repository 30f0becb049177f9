from __future__ import annotations

import math

import pytest
import torch

from benchmarks.controls import Recorder, knowing, reverse_kl, sharpened, temperature_for
from ztw_rl.core.backends.eager import eager
from ztw_rl.core.exits import Exceeds
from ztw_rl.core.gates import disagreement, greedy_regret
from ztw_rl.core.runtime import decide, signals


def test_kl_by_hand():
    full, answer = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[[0.9, 0.1]]]).log()
    wanted = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    assert reverse_kl(full, answer).item() == pytest.approx(wanted)


def test_an_oracle_leaves_where_the_regret_is_least(make_model):
    model = make_model(n_ics=2)
    x = torch.randn(64, 4, 6, 6, generator=torch.Generator().manual_seed(3)) * 2
    with torch.no_grad():
        answers = model(x)
    regret = greedy_regret(answers[:, -1], answers[:, :-1])
    backend = knowing(eager(model), greedy_regret)
    torch.testing.assert_close(signals(backend.segments, x), -regret)
    # What leaves only without a regret always does what the full network does.
    same = decide(knowing(eager(model), disagreement).segments, x, Exceeds.uniform(-0.5, 3))
    assert same.labels.tolist() == answers[:, -1].argmax(dim=1).tolist()
    assert len(set(same.exits.tolist())) > 1
    left_at = torch.from_numpy(same.exits)
    acted = answers[torch.arange(64), left_at]
    torch.testing.assert_close(torch.from_numpy(same.log_probs), acted)


def test_sharpened_probabilities(make_model):
    model = make_model(n_ics=2)
    x = torch.randn(8, 4, 6, 6)
    rule = Exceeds.uniform(2.0, 3)
    plain = decide(eager(model).segments, x, rule).log_probs
    sharp = decide(sharpened(eager(model), 0.5).segments, x, rule).log_probs
    wanted = torch.log_softmax(torch.from_numpy(plain) / 0.5, dim=-1)
    torch.testing.assert_close(torch.from_numpy(sharp), wanted)


def test_the_temperature_of_an_entropy():
    log_probs = torch.tensor([[0.8, 0.2]]).log()
    # p ∝ (4, 1)^(1/T) is 16 : 1 at T = 1/2.
    p = 16 / 17
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert temperature_for(log_probs, entropy) == pytest.approx(0.5, rel=1e-3)


def test_what_is_met_is_written_down(make_model):
    model = make_model(n_ics=2).requires_grad_(False)
    recorder = Recorder(eager(model), model, 5)
    x = torch.randn(8, 4, 6, 6)
    for part in x.split(3):
        decide(recorder.backend.segments, part, Exceeds.uniform(0.5, 3))
    samples = recorder.samples()
    answers = model(x[:5])
    torch.testing.assert_close(samples.answers, answers[:, :-1])
    torch.testing.assert_close(samples.full, answers[:, -1])
    assert recorder.left == 0
