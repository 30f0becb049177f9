from __future__ import annotations

import torch
from gymnasium.spaces import Box, Discrete

from ztw_rl.atari.policy import ChannelsLastCnnPolicy, UncheckedCategorical


def test_the_value_that_a_rollout_ends_with_is_rounded_as_those_in_it():
    torch.manual_seed(0)
    space = Box(0, 255, (4, 84, 84), "uint8")
    policy = ChannelsLastCnnPolicy(space, Discrete(6), lambda _: 1e-3, precision="bfloat16")
    x = torch.randint(0, 256, (5, 4, 84, 84), dtype=torch.uint8)
    with torch.no_grad():
        _, values, _ = policy(x)
        assert torch.equal(policy.predict_values(x), values)


def test_actions_are_drawn_as_torch_draws_them():
    logits = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(2)
    ours = UncheckedCategorical(6).proba_distribution(logits).sample()
    torch.manual_seed(2)
    torch.testing.assert_close(ours, torch.distributions.Categorical(logits=logits).sample())
    # With all probability on one action, that one is drawn.
    certain = torch.tensor([[0.0, 200.0, 0.0]]).repeat(100, 1)
    assert (UncheckedCategorical(3).proba_distribution(certain).sample() == 1).all()
