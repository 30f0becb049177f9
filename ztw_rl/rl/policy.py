"""SB3's ``CnnPolicy`` with a faster trunk, the same parameters under the same names; IMPALA-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium.spaces import Box
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn import functional as F

from ztw_rl.rl.config import Precision
from ztw_rl.rl.networks.layers import impala_stages, n_features

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}


class ImpalaCNN(BaseFeaturesExtractor):
    """The trunk of an IMPALA-CNN: stages of residual blocks, then a linear layer.

    Source: Espeholt et al., "IMPALA" (2018), figure 3, without its LSTM.

    Args:
        observation_space: Of images (C, H, W).
        widths: Channels of each stage, then the number of features.
        normalized_image: Not used: the policy gives pixels in 0 … 1.
    """

    def __init__(
        self, observation_space: Box, widths: Sequence[int], normalized_image: bool = False
    ) -> None:
        *channels, features = widths
        super().__init__(observation_space, features)
        shape = observation_space.shape
        self.stages = nn.Sequential(*impala_stages(shape[0], tuple(channels)))
        self.linear = nn.Linear(n_features([self.stages], shape), features)

    def forward(self, observations: Tensor) -> Tensor:
        """(B, features) of (B, C, H, W) pixels in 0 … 1."""
        x = F.relu(self.stages(observations)).flatten(1)
        return F.relu(self.linear(x))


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
    """``CnnPolicy`` whose trunk runs channels-last and, if asked, in bfloat16.

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
            (B, features), float32.
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
