from __future__ import annotations

import torch

from ztw_rl.rl.random_play import uniform_policy


def test_every_action_is_equally_likely():
    log_probs = uniform_policy(5)(torch.zeros(3, 4, 84, 84, dtype=torch.uint8))
    torch.testing.assert_close(log_probs.exp(), torch.full((3, 1, 5), 0.2))
