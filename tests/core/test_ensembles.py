from __future__ import annotations

import math

import pytest
import torch

from ztw_rl.core.ensembles import AdditiveEnsemble, GeometricEnsemble
from ztw_rl.core.training import cross_entropy, first_ic_cosine

P = torch.tensor([[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]]])
"""(1, 3, 2): what three exits say of one sample."""


def set_up(kind, weights, biases):
    ensemble = kind(n_exits=3, n_classes=2)
    with torch.no_grad():
        ensemble.log_weights.copy_(torch.tensor(weights).log())
        ensemble.log_biases.copy_(torch.tensor(biases).log())
    return ensemble


WEIGHTS = [[1.0, 7.0, 7.0], [2.0, 1.0, 7.0], [0.5, 1.0, 2.0]]
BIASES = [[1.0, 3.0], [1.0, 1.0], [2.0, 1.0]]


def test_geometric_by_hand():
    q = set_up(GeometricEnsemble, WEIGHTS, BIASES)(P.log()).exp()
    # Exit 0: 1·0.9 against 3·0.1.  Exit 1: 0.9²·0.5 against 0.1²·0.5.
    # Exit 2: 2·√0.9·0.5·0.2² against 1·√0.1·0.5·0.8².
    a, b = 2 * math.sqrt(0.9) * 0.5 * 0.04, math.sqrt(0.1) * 0.5 * 0.64
    wanted = [[0.75, 0.25], [0.81 / 0.82, 0.01 / 0.82], [a / (a + b), b / (a + b)]]
    torch.testing.assert_close(q, torch.tensor([wanted]))


def test_additive_by_hand():
    q = set_up(AdditiveEnsemble, WEIGHTS, BIASES)(P.log()).exp()
    # Exit 0: 0.9 + 1 against 0.1 + 3.  Exit 1: 1.8 + 0.5 + 1 against 0.2 + 0.5 + 1.
    # Exit 2: 0.45 + 0.5 + 0.4 + 2 against 0.05 + 0.5 + 1.6 + 1.
    wanted = [[0.38, 0.62], [0.66, 0.34], [3.35 / 6.5, 3.15 / 6.5]]
    torch.testing.assert_close(q, torch.tensor([wanted]))


def test_a_new_geometric_ensemble_is_the_geometric_mean():
    q = GeometricEnsemble(3, 2)(P.log())
    for m in range(3):
        mean = P[:, : m + 1].log().mean(dim=1)
        torch.testing.assert_close(q[:, m], torch.log_softmax(mean, -1))
    torch.testing.assert_close(q[:, 0], P[:, 0].log())


def test_a_new_additive_ensemble_is_the_mean_but_for_one_per_cent():
    q = AdditiveEnsemble(3, 2)(P.log()).exp()
    for m in range(3):
        wanted = (P[:, : m + 1].mean(dim=1) + 0.01 / 2) / 1.01
        torch.testing.assert_close(q[:, m], wanted)


@pytest.mark.parametrize("kind", [GeometricEnsemble, AdditiveEnsemble])
def test_one_exit_at_a_time_equals_all_at_once_and_is_normalised(kind):
    torch.manual_seed(0)
    ensemble = kind(4, 5)
    with torch.no_grad():
        ensemble.log_weights.normal_()
        ensemble.log_biases.normal_()
    log_p = torch.log_softmax(4 * torch.randn(6, 4, 5), -1)
    q = ensemble(log_p)
    assert ensemble.n_exits == 4
    torch.testing.assert_close(q.exp().sum(-1), torch.ones(6, 4))
    for m in range(4):
        torch.testing.assert_close(ensemble.at(m, log_p[:, : m + 1]), q[:, m])


@pytest.mark.parametrize("kind", [GeometricEnsemble, AdditiveEnsemble])
def test_each_exit_has_weights_of_its_own_and_looks_back_only(kind):
    ensemble = kind(3, 2)
    ensemble(P.log())[:, 1, 0].sum().backward()
    used = ensemble.log_weights.grad != 0
    assert used.tolist() == [[False] * 3, [True, kind is AdditiveEnsemble, False], [False] * 3]
    assert (ensemble.log_biases.grad != 0).any(dim=1).tolist() == [False, True, False]


def test_very_sure_members_stay_finite():
    log_p = torch.log_softmax(torch.tensor([[[500.0, -500.0], [-500.0, 500.0]]]), -1)
    for kind in (GeometricEnsemble, AdditiveEnsemble):
        q = kind(2, 2)(log_p)
        assert q.isfinite().all()
        # Exit 1 hears two opposite certainties of equal weight.
        torch.testing.assert_close(q[0, 1].exp(), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("kind", [GeometricEnsemble, AdditiveEnsemble])
def test_the_one_product_form_equals_exit_by_exit(kind):
    torch.manual_seed(0)
    ensemble = kind(4, 3)
    for parameter in ensemble.parameters():
        torch.nn.init.normal_(parameter)
    log_probs = torch.log_softmax(torch.randn(5, 4, 3), dim=-1)
    torch.testing.assert_close(ensemble.fitted(log_probs), ensemble(log_probs))
    torch.testing.assert_close(ensemble.fitted(log_probs).exp().sum(dim=-1), torch.ones(5, 4))


def test_gradients_of_weights_that_do_not_count_are_zero():
    ensemble = GeometricEnsemble(3, 2)
    log_probs = torch.log_softmax(torch.randn(6, 3, 2), dim=-1)
    cross_entropy(ensemble.fitted(log_probs), torch.zeros(6, dtype=torch.int64)).backward()
    gradient = ensemble.log_weights.grad
    assert torch.equal(gradient, gradient.tril())
    assert gradient[2].all()


def test_cosine_of_opposed_and_of_own_gradients():
    w = torch.zeros(1, 2, requires_grad=True)
    labels = torch.tensor([0])
    own = torch.log_softmax(w, dim=-1).unsqueeze(1)
    other = torch.log_softmax(torch.tensor([[1.0, 0.0]]), dim=-1).unsqueeze(1)
    assert first_ic_cosine(torch.cat([own, other], dim=1), labels, [w]) == pytest.approx(1)
    # A successor whose loss pulls three times as hard the other way.
    against = torch.log_softmax(-3 * w, dim=-1).unsqueeze(1)
    assert first_ic_cosine(torch.cat([own, against], dim=1), labels, [w]) == pytest.approx(-1)
    assert w.grad is None
