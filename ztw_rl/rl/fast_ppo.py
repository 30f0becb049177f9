"""SB3's PPO whose rollout and update keep a device busy rather than waiting."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from ztw_rl.core.device import replayable, tf32_convolutions
from ztw_rl.core.training import are_finite
from ztw_rl.rl.frame_buffer import FrameBuffer
from ztw_rl.rl.policy import ChannelsLastCnnPolicy


class PPOLoss(NamedTuple):
    """() tensors. Only ``total`` is to be minimised."""

    total: Tensor
    policy: Tensor
    """The clipped surrogate, its sign turned."""
    value: Tensor
    """Squared error of the value net."""
    entropy: Tensor
    """Mean entropy of the policy, its sign turned, in nats."""
    approx_kl: Tensor
    """Estimate of KL(old policy ‖ new policy), in nats."""
    clip_fraction: Tensor
    """Share of samples whose probability ratio is beyond the clip range."""


def ppo_loss(
    *,
    values: Tensor,
    log_prob: Tensor,
    entropy: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    returns: Tensor,
    clip_range: Tensor,
    ent_coef: Tensor | float,
    vf_coef: Tensor | float,
) -> PPOLoss:
    """Clipped surrogate, value error and entropy bonus of B samples.

    Advantages are normalised within the minibatch, unless it is a single sample.

    Args:
        values: (B,) the value net's answers.
        log_prob: (B,) of the actions taken, under the present policy.
        entropy: (B,) of the present policy.
        old_log_prob: (B,) of the same actions under the policy that took them.
        advantages: (B,) generalised advantage estimates.
        returns: (B,) targets of the values.
        clip_range: () of the probability ratio, around 1.
        ent_coef: () weight of the entropy bonus.
        vf_coef: () weight of the value error.
    """
    if len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
    policy = -torch.min(advantages * ratio, advantages * clipped).mean()
    value = F.mse_loss(values, returns)
    negative_entropy = -entropy.mean()
    with torch.no_grad():
        approx_kl = (ratio - 1 - log_ratio).mean()
        clip_fraction = ((ratio - 1).abs() > clip_range).float().mean()
    return PPOLoss(
        total=policy + ent_coef * negative_entropy + vf_coef * value,
        policy=policy,
        value=value,
        entropy=negative_entropy,
        approx_kl=approx_kl,
        clip_fraction=clip_fraction,
    )


class _Step(NamedTuple):
    """What was decided and what N games gave, under the names that SB3's callbacks know."""

    obs_tensor: Tensor
    actions: np.ndarray
    clipped_actions: np.ndarray
    values: Tensor
    log_probs: Tensor
    new_obs: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[dict[str, Any]]
    episode_starts: np.ndarray


class FastPPO(PPO):
    """``PPO`` of a ``ChannelsLastCnnPolicy``: same algorithm, settings, logs, random numbers.

    Observations go to the device once and stay there. Deciding on a step and learning from a
    minibatch are one function of tensors each, which CUDA replays as a graph; the host reads from
    the device once per step and at the end of an update. ``max_grad_norm`` is a constant of these
    graphs.

    What a step gave is noted, and callbacks are told of it, while the games play the next. So a
    callback must leave ``training_env`` alone in ``_on_step``, what it changes counts from the
    step after the next, and where it stops the training the games are one step ahead of the count.

    Args:
        *args: As ``PPO``.
        **kwargs: As ``PPO``, without ``rollout_buffer_class``, ``target_kl``, ``clip_range_vf``
            and ``use_sde``; advantages are always normalised.

    Raises:
        ValueError: A setting is none that it knows, or the policy is another one.
    """

    def _setup_model(self) -> None:
        unknown = {
            "target_kl": self.target_kl is not None,
            "clip_range_vf": self.clip_range_vf is not None,
            "use_sde": self.use_sde,
            "normalize_advantage=False": not self.normalize_advantage,
            "rollout_buffer_class": self.rollout_buffer_class not in (None, FrameBuffer),
            "this policy": not issubclass(self.policy_class, ChannelsLastCnnPolicy),
        }
        if any(unknown.values()):
            named = ", ".join(name for name, is_set in unknown.items() if is_set)
            raise ValueError(f"FastPPO does not know {named}")
        self.rollout_buffer_class = FrameBuffer
        super()._setup_model()
        self.forget_graphs()

    def forget_graphs(self) -> None:
        """Begin anew with the policy and the optimiser as they are.

        Graphs know where weights, moments and learning rate lie: call this once an optimiser's
        state has been replaced, as ``load_state_dict`` does.
        """
        for group in self.policy.optimizer.param_groups:
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)
        self._decide = replayable(self._decision, self.device)
        self._learn = replayable(self._learning_step, self.device)

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Load weights and optimiser; see ``PPO.set_parameters``."""
        super().set_parameters(*args, **kwargs)
        self.forget_graphs()

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_decide", "_learn"]

    def _update_learning_rate(self, optimizers: Any) -> None:
        rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group["lr"].fill_(rate)

    @torch.no_grad()
    def _decision(self, observations: Tensor) -> Tensor:
        """Actions, values and log-probabilities of (N, C, H, W) observations, as (3, N)."""
        with self._arithmetic():
            actions, values, log_probs = self.policy(observations)
        return torch.stack([actions.to(log_probs), values.flatten(), log_probs])

    def _arithmetic(self) -> AbstractContextManager[None]:
        return tf32_convolutions(self.policy.precision == "tf32", self.device)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """Fill the buffer; see ``OnPolicyAlgorithm.collect_rollouts``."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        callback.update_locals({"env": env, "n_rollout_steps": n_rollout_steps})
        callback.on_rollout_start()
        before: _Step | None = None
        for _ in range(n_rollout_steps):
            observations = self._send(self._last_obs)
            decided, values, log_probs = self._decide(observations).cpu()
            actions = decided.long().numpy()
            env.step_async(actions)
            try:
                goes_on = before is None or self._note(before, callback, rollout_buffer)
            finally:
                # Whatever a callback does, no step stays under way.
                new_obs, rewards, dones, infos = env.step_wait()
                starts, self._last_episode_starts = self._last_episode_starts, dones
                self._last_obs = new_obs  # type: ignore[assignment]
            if not goes_on:
                return False
            assert isinstance(new_obs, np.ndarray)
            assert starts is not None
            before = _Step(
                observations,
                actions,
                actions,
                values,
                log_probs,
                new_obs,
                rewards,
                dones,
                infos,
                starts,
            )
        if before is not None and not self._note(before, callback, rollout_buffer):
            return False
        last_values = self._values(self._last_obs)
        assert self._last_episode_starts is not None
        rollout_buffer.compute_returns_and_advantage(last_values, self._last_episode_starts)
        callback.on_rollout_end()
        return True

    def _note(self, step: _Step, callback: BaseCallback, rollout_buffer: RolloutBuffer) -> bool:
        """Keep what a step gave; false if the callback wants to stop, and then it is not kept."""
        self.num_timesteps += len(step.rewards)
        callback.update_locals({**step._asdict(), "rollout_buffer": rollout_buffer})
        if not callback.on_step():
            return False
        self._update_info_buffer(step.infos, step.dones)
        self._bootstrap_timeouts(step.rewards, step.dones, step.infos)
        rollout_buffer.add(
            step.obs_tensor,  # type: ignore[arg-type]
            step.actions,
            step.rewards,
            step.episode_starts,
            step.values,
            step.log_probs,
        )
        return True

    def _send(self, observations: object) -> Tensor:
        """(N, C, H, W) observations on the device."""
        assert isinstance(observations, np.ndarray)
        return torch.as_tensor(observations, device=self.device)

    @torch.no_grad()
    def _values(self, observations: object) -> Tensor:
        """(N, 1) values of (N, C, H, W) observations."""
        with self._arithmetic():
            return self.policy.predict_values(self._send(observations))

    def _bootstrap_timeouts(
        self, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]
    ) -> None:
        """Add the discounted value of where it was cut off to a truncated game's last reward."""
        for i in np.flatnonzero(dones):
            if infos[i].get("TimeLimit.truncated", False):
                value = self._values(infos[i]["terminal_observation"][None])
                rewards[i] += self.gamma * value.item()

    def _learning_step(
        self,
        clip_range: Tensor,
        ent_coef: Tensor,
        vf_coef: Tensor,
        observations: Tensor,
        actions: Tensor,
        old_log_prob: Tensor,
        advantages: Tensor,
        returns: Tensor,
    ) -> Tensor:
        """One step of the optimiser on a minibatch; gives ``PPOLoss``, stacked."""
        with self._arithmetic():
            values, log_prob, entropy = self.policy.evaluate_actions(observations, actions)
            assert entropy is not None
            loss = ppo_loss(
                values=values.flatten(),
                log_prob=log_prob,
                entropy=entropy,
                old_log_prob=old_log_prob,
                advantages=advantages,
                returns=returns,
                clip_range=clip_range,
                ent_coef=ent_coef,
                vf_coef=vf_coef,
            )
            optimizer = self.policy.optimizer
            for group in optimizer.param_groups:
                # PyTorch wants to be told that a step is being recorded.
                group["capturable"] = _is_recording(self.device)
            optimizer.zero_grad()
            loss.total.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            optimizer.step()
        return torch.stack(loss).detach()

    def train(self) -> None:
        """Learn from the rollout; see ``PPO.train``.

        Raises:
            FloatingPointError: The loss or a weight is no longer a finite number.
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip_range = self.clip_range(self._current_progress_remaining)  # type: ignore[operator]
        weights = torch.tensor([clip_range, self.ent_coef, self.vf_coef], device=self.device)
        losses = []
        for _ in range(self.n_epochs):
            for batch in self.rollout_buffer.get(self.batch_size):
                losses.append(
                    self._learn(
                        *weights,
                        batch.observations,
                        batch.actions.long().flatten(),
                        batch.old_log_prob,
                        batch.advantages,
                        batch.returns,
                    )
                )
            self._n_updates += 1
        terms = torch.stack(losses).cpu()
        total = PPOLoss(*terms.T).total
        if not (total.isfinite().all() and are_finite(self.policy.parameters())):
            raise FloatingPointError(
                f"loss or weights after {self.num_timesteps:,} steps are not finite"
            )
        self._log(terms, clip_range)

    def _log(self, losses: Tensor, clip_range: float) -> None:
        """Record what ``PPO.train`` does, from the (minibatches, terms) of ``PPOLoss``."""
        mean = PPOLoss(*losses.mean(0).tolist())
        last_pass = losses[-(len(losses) // self.n_epochs) :]
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        for name, figure in {
            "entropy_loss": mean.entropy,
            "policy_gradient_loss": mean.policy,
            "value_loss": mean.value,
            "approx_kl": PPOLoss(*last_pass.mean(0).tolist()).approx_kl,
            "clip_fraction": mean.clip_fraction,
            "loss": PPOLoss(*losses[-1].tolist()).total,
            "explained_variance": explained,
            "clip_range": clip_range,
        }.items():
            self.logger.record(f"train/{name}", figure)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")


def _is_recording(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
