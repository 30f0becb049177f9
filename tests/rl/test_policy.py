from __future__ import annotations

import gc
import weakref

import torch
from gymnasium.spaces import Box, Discrete
from stable_baselines3.common.distributions import CategoricalDistribution

from ztw_rl.rl.policy import ChannelsLastCnnPolicy, UncheckedCategorical


def test_the_value_that_a_rollout_ends_with_is_rounded_as_those_in_it():
    policy = small_policy(precision="bfloat16")
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


def test_a_distribution_does_what_sb3s_does():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ours, sb3s = UncheckedCategorical(3), CategoricalDistribution(3)
    assert torch.equal(ours.actions_from_params(logits, deterministic=True), logits.argmax(-1))
    found = []
    for distribution in (ours, sb3s):
        torch.manual_seed(0)
        found.append(distribution.log_prob_from_params(logits))
    torch.testing.assert_close(*found)


def test_no_graph_of_gradients_stays_behind():
    policy = small_policy()
    x = torch.zeros((2, 4, 84, 84), dtype=torch.uint8)
    logits = policy.get_distribution(x).distribution.logits
    assert logits.requires_grad
    left = weakref.ref(logits)
    del logits
    gc.collect()
    assert left() is None


def test_saved_and_loaded_by_itself(tmp_path):
    policy = small_policy(precision="bfloat16")
    policy.save(tmp_path / "policy")
    loaded = ChannelsLastCnnPolicy.load(tmp_path / "policy", device="cpu")
    assert loaded.precision == "bfloat16"
    x = torch.randint(0, 256, (2, 4, 84, 84), dtype=torch.uint8)
    assert torch.equal(loaded.predict_values(x), policy.predict_values(x))


def small_policy(**settings):
    torch.manual_seed(0)
    space = Box(0, 255, (4, 84, 84), "uint8")
    return ChannelsLastCnnPolicy(space, Discrete(6), constant, **settings)


def constant(progress_remaining):
    return 1e-3
