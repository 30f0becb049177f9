"""Settings of the Atari pipeline.

The dataclasses are recipe sections (``ppo: {n_envs: 8}``) and command-line flags
(``--ppo.n-envs 8``) at once, so this module imports nothing heavy: ``--help`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pixels = Literal["ale", "sb3"]
"""``ale``: max-pool, then gray (ALE's vector env, gymnasium). ``sb3``: gray, then max-pool."""

Schedule = Literal["constant", "linear"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class AtariConfig:
    """How the emulator's frames become observations. One choice serves all three stages."""

    game: str = "pong"
    """ALE's name of the ROM, such as ``ms_pacman``."""
    pixels: Pixels = "ale"
    """Order of max-pooling and graying; a policy must be run on what it was trained on."""
    frame_skip: int = 4
    """Emulator frames per action; the last two are max-pooled."""
    screen_size: int = 84
    """Side of the gray observation, in pixels."""
    frame_stack: int = 4
    """Observations stacked along the channel axis, newest last."""
    repeat_action_probability: float = 0.1
    """Sticky actions: chance that a frame repeats the action of the frame before it."""
    max_frames: int = 108_000
    """Emulator frames after which a game is truncated (30 minutes of play)."""
    terminal_on_life_loss: bool = True
    """A lost life ends the learner's episode; the game goes on. Evaluation ignores it."""
    clip_reward: bool = True
    """The learner sees the sign of the reward. Evaluation always counts raw points."""


@dataclass(frozen=True)
class PPOConfig:
    """PPO, in the spelling of Stable-Baselines3."""

    n_timesteps: int = 10_000_000
    """Environment steps in total, over all environments; one step is ``frame_skip`` frames."""
    n_envs: int = 8
    """Games played side by side."""
    n_steps: int = 128
    """Steps per environment between two updates."""
    batch_size: int = 256
    """Minibatch size."""
    n_epochs: int = 4
    """Passes over each rollout."""
    learning_rate: float = 2.5e-4
    """Adam's learning rate, at the start if it is scheduled."""
    clip_range: float = 0.1
    """Clipping of the probability ratio, at the start if it is scheduled."""
    schedule: Schedule = "constant"
    """What learning rate and clip range do over ``n_timesteps``: stay, or fall to 0."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    gamma: float = 0.99
    """Discount factor."""
    gae_lambda: float = 0.95
    """Bias-variance trade-off of generalised advantage estimation."""
    max_grad_norm: float = 0.5
    """Gradient clipping."""
    precision: Precision = "float32"
    """Arithmetic of the convolutional trunk. ``bfloat16`` pays where the processor has it (AMX,
    tensor cores); weights, heads, losses and the optimiser stay in float32."""
    checkpoint_interval: int = 100_000
    """Environment steps between two checkpoints."""
