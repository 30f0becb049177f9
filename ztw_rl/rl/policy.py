"""SB3's ``CnnPolicy`` with a faster trunk, and the same parameters under the same names."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor
from torch.distributions import Categorical

from ztw_rl.rl.config import Precision

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}


class UncheckedCategorical(CategoricalDistribution):
    """``CategoricalDistribution`` that never makes the host wait for the device.

    Neither logits nor actions are checked; whoever learns sees a loss that is not finite.
    """

    def proba_distribution(self, action_logits: Tensor) -> UncheckedCategorical:
        """The distribution of (B, actions) logits, a new one each time.

        Kept here, the last one would keep its graph of gradients alive. PyTorch then uses the
        graph's leaves again, which belong to the CUDA stream that made them: if that was the
        default one, no step can be recorded any more.
        """
        given = UncheckedCategorical(self.action_dim)
        given.distribution = Categorical(logits=action_logits, validate_args=False)
        return given

    def actions_from_params(self, action_logits: Tensor, deterministic: bool = False) -> Tensor:
        """(B,) actions of (B, actions) logits."""
        return self.proba_distribution(action_logits).get_actions(deterministic)

    def log_prob_from_params(self, action_logits: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) drawn actions of (B, actions) logits, and their log-probabilities."""
        given = self.proba_distribution(action_logits)
        actions = given.sample()
        return actions, given.log_prob(actions)

    def sample(self) -> Tensor:
        """Draw (B,) actions: the same as ``torch.multinomial``, which checks its argument."""
        race = torch.empty_like(self.distribution.probs).exponential_()
        return (self.distribution.probs / race).argmax(-1)


class ChannelsLastCnnPolicy(ActorCriticCnnPolicy):
    """``CnnPolicy`` whose NatureCNN runs channels-last and, if asked, in bfloat16.

    Only the trunk is autocast: heads, log-probabilities and values are float32, so that the
    probability ratio that PPO clips is not rounded.

    Args:
        *args: As ``ActorCriticCnnPolicy``.
        precision: Arithmetic of the trunk.
        compiled: Whether ``evaluate_actions`` goes through ``torch.compile``.
        **kwargs: As ``ActorCriticCnnPolicy``.
    """

    def __init__(
        self,
        *args: Any,
        precision: Precision = "float32",
        compiled: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.precision = precision
        self._dtype = DTYPES[precision]
        self.action_dist = UncheckedCategorical(int(self.action_space.n))  # type: ignore[attr-defined]
        self.features_extractor.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = compiled
        if compiled:
            evaluate = torch.compile(self.evaluate_actions)
            self.evaluate_actions = evaluate  # type: ignore[method-assign]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {"precision": self.precision, "compiled": self._compiled}
        return {**super()._get_constructor_parameters(), **own}

    def extract_features(  # type: ignore[override]
        self, obs: Tensor, features_extractor: BaseFeaturesExtractor | None = None
    ) -> Tensor:
        """Features of uint8 observations.

        Args:
            obs: (B, C, H, W), uint8.
            features_extractor: The policy's own by default.

        Returns:
            (B, 512), float32.
        """
        extractor = self.features_extractor if features_extractor is None else features_extractor
        # A copy of what needs no conversion, too: it is the caller's.
        pixels = obs.to(self._dtype, copy=True, memory_format=torch.channels_last).div_(255)
        with torch.autocast(obs.device.type, self._dtype, enabled=self._dtype is not torch.float32):
            features: Tensor = extractor(pixels)
        return features.float()

    def predict_values(self, obs: Tensor) -> Tensor:  # type: ignore[override]
        """(B, 1) values of (B, C, H, W) observations, by the same trunk as ``forward``'s."""
        critic = self.mlp_extractor.forward_critic(self.extract_features(obs))
        values: Tensor = self.value_net(critic)
        return values
