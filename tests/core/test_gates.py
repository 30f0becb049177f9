"""Gates: what they predict and read, and that they answer alike inside a model."""

from __future__ import annotations

import math

import pytest
import torch

from tests.networks import early_exit_nature_cnn
from ztw_rl.core import gates as module
from ztw_rl.core.cost import exit_costs
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.core.gate_training import fit_gates
from ztw_rl.core.gates import (
    Gate,
    GateSamples,
    disagreement,
    error_regret,
    greedy_regret,
    halved,
    kl_regret,
    make_gates,
    n_said,
    regrets,
    said,
    soft_regret,
)
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide, signals
from ztw_rl.errors import UserError

P = torch.tensor([[0.7, 0.2, 0.1]])
"""The full network's."""
Q = torch.tensor([[[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [1.0, 0.0, 0.0]]])
"""Equal, wrong, and sharper."""


def test_targets_by_hand():
    full, answers = P.log(), Q.log()
    soft = [0.5 * math.log(0.7) - 0.5 * math.log(0.2)]
    soft += [-0.3 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)]
    assert soft_regret(full, answers).tolist()[0] == pytest.approx([0, *soft], abs=1e-6)
    assert soft[1] < 0
    assert greedy_regret(full, answers).tolist()[0] == pytest.approx([0, 0.5, 0])
    assert disagreement(full, answers).tolist() == [[0, 1, 0]]
    kl = 0.7 * math.log(0.7 / 0.2) + 0.2 * math.log(0.2 / 0.7)
    assert kl_regret(full, answers[:, :2]).tolist()[0] == pytest.approx([0, kl], abs=1e-6)
    # The full network says 0.
    assert error_regret(full, answers, torch.tensor([0])).tolist() == [[0, 1, 0]]
    assert error_regret(full, answers, torch.tensor([1])).tolist() == [[0, -1, 0]]
    assert error_regret(full, answers, torch.tensor([2])).tolist() == [[0, 0, 0]]


def test_the_soft_regret_is_bounded_where_the_policy_is_certain():
    full = torch.tensor([[1.0, 0.0]]).log()
    answers = torch.tensor([[[0.0, 1.0]]]).log()
    assert soft_regret(full, answers).tolist() == [[6.0]]


def test_what_a_gate_reads_by_hand():
    answer = torch.tensor([[0.5, 0.2, 0.3]])
    torch.testing.assert_close(said(answer.log()), answer)
    assert n_said(3) == 3
    many = torch.randn(2, 100).log_softmax(1)
    highest = many.exp().sort(descending=True).values[:, : n_said(100)]
    assert torch.equal(said(many), highest)


def test_features_too_large_for_halves():
    assert halved(torch.tensor([1e9, -1e9, 2.0])).tolist() == [65504, -65504, 2]


def random_samples(n=512, n_classes=4, sizes=(7, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    pooled = tuple(torch.randn(n, size, generator=generator) * 3 + 1 for size in sizes)
    logits = torch.randn(n, len(sizes), n_classes, generator=generator)
    full = torch.randn(n, n_classes, generator=generator).log_softmax(1)
    return GateSamples(pooled, logits.log_softmax(2), full)


def test_a_gate_learns_what_its_features_tell_and_says_how_much():
    n = 40_000
    samples = random_samples(n)
    noise = torch.randn(n, generator=torch.Generator().manual_seed(1))
    target = torch.stack([samples.pooled[0][:, 0] + 5, noise], dim=1)
    torch.manual_seed(0)
    gates = [Gate(7, 4, 10**9), Gate(5, 4, 10**9)]
    losses = []
    explained = fit_gates(
        gates, samples, target, torch.Generator().manual_seed(0), lambda e, x: losses.append(x)
    )
    # What no input tells cannot be explained.
    assert explained[0] > 0.8
    assert abs(explained[1]) < 0.05
    assert losses[-1] < losses[0]
    last = slice(9 * n // 10, None)
    errors = (regrets(gates, samples.rows(last)) - target[last]) ** 2
    wanted = 1 - errors.mean(0) / target[last].var(0, correction=0)
    assert explained == pytest.approx(wanted.tolist())
    assert not any(p.requires_grad for gate in gates for p in gate.parameters())


def test_before_it_has_learnt_a_gate_says_the_mean():
    samples = random_samples(64, sizes=(7,))
    gate = Gate(7, 4, 10**9)
    gate.standardize(samples.pooled[0], torch.arange(64.0))
    torch.testing.assert_close(gate(*samples.known(0)), torch.full((64,), 31.5))


def test_a_feature_that_never_moves_is_left_out():
    gate = Gate(2, 3, 10**9)
    gate.standardize(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.zeros(2))
    assert gate.scale.tolist() == pytest.approx([module.FEATURE_SCALE, 0])


def test_a_fixed_gate_is_minus_the_regret():
    samples = random_samples(64, sizes=(7,))
    torch.manual_seed(1)
    gate = Gate(7, 4, 10**9)
    torch.nn.init.normal_(gate.out.weight)
    gate.standardize(samples.pooled[0], samples.full[:, 0])
    with torch.no_grad():
        wanted = -gate(*samples.known(0))
        torch.testing.assert_close(gate.fixed()(*samples.known(0)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("exits", [("conv1", "conv2"), ("input", "conv1", "conv2")])
def test_a_gate_takes_little_of_a_nature_cnn(exits):
    model = early_exit_nature_cnn(18, exits, gates=("greedy",)).eval()
    pixels = torch.zeros(1, 4, 84, 84, dtype=torch.uint8)
    plain, judged = exit_costs(model, pixels), exit_costs(model.judged("greedy"), pixels)
    assert judged.backbone_macs == plain.backbone_macs
    for m, gate in enumerate(model.gates_of("greedy")):
        own = gate.hidden.weight.numel() + gate.out.weight.numel()
        assert own <= 0.006 * plain.backbone_macs
        before = judged.macs[m - 1] - plain.macs[m - 1] if m else 0
        assert judged.macs[m] - plain.macs[m] == before + own


def with_gates(model: EarlyExitModel, n_classes: int = 3) -> EarlyExitModel:
    """The same with gates at random, one set for each name."""
    torch.manual_seed(5)
    gates = {}
    for name in ("sampled", "greedy"):
        gates[name] = make_gates([ic.n_pooled for ic in model.ics], n_classes, 10**6)
        for gate in gates[name]:
            torch.nn.init.normal_(gate.out.weight)
    made = EarlyExitModel(model.blocks, model.head, model.ics, model.attach, model.ensemble, gates)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("by", ["margin", "sampled", "greedy"])
@pytest.mark.parametrize("method", ["ztw", "sdn"])
def test_online_equals_offline(make_model, by, method):
    model = with_gates(make_model(n_ics=4, method=method)).judged(by)
    x = torch.randn(64, 4, 6, 6, generator=torch.Generator().manual_seed(3)) * 2
    segments = model.answering()
    found = signals(segments, x)
    answers = model(x)
    if by == "margin":
        top = answers[:, :-1].exp().topk(2, dim=-1).values
        torch.testing.assert_close(found, top[..., 0] - top[..., 1])
    else:
        exits = list(model.exits(x))[:-1]
        known = GateSamples(tuple(e.pooled for e in exits), answers[:, :-1], answers[:, -1])
        wanted = -regrets(model.gates_of(by), known)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    bounds = Exceeds(found.median(dim=0).values)
    exits, _ = select(answers, bounds, signals=found)
    decision = decide(segments, x, bounds)
    assert decision.exits.tolist() == exits.tolist()
    assert len(set(exits.tolist())) > 2


def test_a_broken_sample_runs_to_the_end(make_model):
    model = with_gates(make_model(n_ics=2)).judged("greedy")
    x = torch.randn(3, 4, 6, 6)
    x[1] = torch.nan
    bounds = Exceeds.uniform(-1e9, 3)
    assert decide(model.answering(), x, bounds).exits.tolist() == [0, 2, 0]


def test_what_a_model_is_judged_by(make_model):
    model = with_gates(make_model(n_ics=2))
    assert (model.rule, model.judged("margin").rule, model.judged("greedy").rule) == (
        *("confidence", "margin", "gate"),
    )
    assert model.judged("greedy").blocks[0] is model.blocks[0]
    assert model.judged("greedy").state_dict().keys() == model.state_dict().keys()
    with pytest.raises(UserError, match="no gates for errors"):
        model.judged("errors")
    with pytest.raises(ValueError, match="2 ICs need as many gates"):
        EarlyExitModel(
            model.blocks, model.head, model.ics, model.attach, None, {"x": [torch.nn.Identity()]}
        )
