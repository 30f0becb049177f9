from __future__ import annotations

import pytest
import torch

from ztw_rl.core.signals import Confidence, Margin, margins

SAID = torch.tensor([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]).log()


def test_by_hand():
    assert Confidence()(None, SAID).tolist() == pytest.approx([0.5, 0.4])
    assert Margin()(None, SAID).tolist() == pytest.approx([0.2, 0.0])
    torch.testing.assert_close(margins(SAID.unsqueeze(1)), torch.tensor([[0.2], [0.0]]))


@pytest.mark.parametrize("signal", [Confidence(), Margin()])
def test_what_is_broken_exceeds_nothing(signal):
    broken = torch.full((1, 3), torch.nan)
    assert not (signal(None, broken) > -torch.inf).any()
