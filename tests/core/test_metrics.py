from __future__ import annotations

import pytest
import torch

from ztw_rl.core.metrics import hindsight_improvability, relative_cost


def test_relative_cost_is_the_mixture():
    assert relative_cost((0.5, 0.25, 0.25), (0.4, 0.6, 1.0)) == pytest.approx(0.6)
    assert relative_cost((0.0, 1.0), (0.4, 1.1)) == pytest.approx(1.1)
    with pytest.raises(ValueError, match="zip"):
        relative_cost((1.0,), (0.4, 1.1))


def test_hindsight_improvability_by_hand():
    labels = torch.tensor([0, 1, 2, 3, 4])
    # Exit 0 gets samples 0, 1, 2 right; exit 1 gets 0, 3; exit 2 gets 3, 4.
    predictions = torch.tensor([[0, 0, 9], [1, 9, 9], [2, 9, 9], [9, 3, 3], [9, 9, 4]])
    # Exit 1 errs on 1, 2, 4, of which exit 0 had 1, 2. Exit 2 errs on 0, 1, 2, all had before.
    wanted = torch.tensor([0.0, 2 / 3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(hindsight_improvability(predictions, labels), wanted)


def test_an_exit_without_errors_has_nothing_to_improve():
    labels = torch.tensor([0, 1])
    found = hindsight_improvability(torch.tensor([[0, 0, 9], [9, 1, 1]]), labels)
    assert found[0] == 0
    assert found[1].isnan()
    assert found[2] == 1


def test_a_right_answer_that_comes_later_does_not_count():
    found = hindsight_improvability(torch.tensor([[9, 0]]), torch.tensor([0]))
    assert found[0] == 0
