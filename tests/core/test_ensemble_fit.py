from __future__ import annotations

import pytest
import torch

from ztw_rl.core.ensembles import AdditiveEnsemble, GeometricEnsemble
from ztw_rl.core.training import cross_entropy, first_ic_cosine


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
