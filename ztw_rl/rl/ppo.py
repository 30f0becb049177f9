"""PPO in one environment, with checkpoints to resume from.

Source of the hyperparameters: Wołczyk et al., "Zero Time Waste" (2021), appendix A.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat, make_output_format
from stable_baselines3.common.vec_env import VecEnv
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch import nn

from ztw_rl.console import StopRequest, TrainingProgress, decimals, graceful_stop
from ztw_rl.core.checkpoint import (
    load_optimizer_tensors,
    load_state,
    load_tensors,
    newest_checkpoint,
    optimizer_tensors,
    save_checkpoint,
)
from ztw_rl.errors import UserError
from ztw_rl.rl.config import PPOConfig, PPOState, RecentGame, Schedule
from ztw_rl.rl.fast_ppo import FastPPO
from ztw_rl.rl.networks.config import Activation
from ztw_rl.rl.policy import ChannelsLastCnnPolicy, ImpalaCNN

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class TrainingResult:
    """Where training stands when ``train`` returns."""

    n_timesteps: int
    """Environment steps learnt from, over all sessions."""
    finished: bool
    """False if the user stopped it."""
    checkpoint: Path
    """The newest checkpoint."""


def scheduled(start: float, schedule: Schedule) -> float | Callable[[float], float]:
    """What SB3 takes for a rate: ``start``, or a function of the share of steps that remain.

    SB3 collects whole rollouts, so the last one may end beyond the last step, where that share is
    negative.
    """
    return start if schedule == "constant" else lambda remaining: max(remaining, 0.0) * start


def build_ppo(env: VecEnv, config: PPOConfig, seed: int, device: torch.device) -> PPO:
    """SB3's PPO, set as ``config`` says: of images the fast learner, of vectors SB3's own.

    Raises:
        UserError: The network does not read such observations.
    """
    shape = env.observation_space.shape
    assert shape is not None
    network = config.network_for(shape)
    hidden = {"net_arch": list(network.hidden), "activation_fn": ACTIVATIONS[network.activation]}
    settings: dict[str, Any] = {
        "learning_rate": scheduled(config.learning_rate, config.schedule),
        "n_steps": config.n_steps,
        "batch_size": config.batch_size,
        "n_epochs": config.n_epochs,
        "gamma": config.gamma,
        "gae_lambda": config.gae_lambda,
        "clip_range": scheduled(config.clip_range, config.schedule),
        "ent_coef": config.ent_coef,
        "vf_coef": config.vf_coef,
        "max_grad_norm": config.max_grad_norm,
        "seed": seed,
        "device": device,
    }
    if network.trunk == "mlp":
        return PPO("MlpPolicy", env, policy_kwargs=hidden, **settings)
    trunk: dict[str, Any] = {}
    if network.trunk == "impala":
        trunk = {
            "features_extractor_class": ImpalaCNN,
            "features_extractor_kwargs": {"widths": network.widths},
        }
    policy_kwargs = {
        **hidden,
        **trunk,
        "precision": config.precision,
        "compiled": config.compiled,
        # SB3's epsilon, which it gives up along with its other defaults.
        "optimizer_kwargs": {"eps": 1e-5, "fused": True},
    }
    return FastPPO(ChannelsLastCnnPolicy, env, policy_kwargs=policy_kwargs, **settings)


def train(
    env: VecEnv,
    config: PPOConfig,
    run_dir: Path,
    *,
    seed: int,
    device: torch.device,
    resume: bool = False,
    init: Path | None = None,
    console: Console | None = None,
) -> TrainingResult:
    """Train to ``config.n_timesteps`` and leave checkpoints and logs in ``run_dir``.

    Ctrl-C saves a checkpoint and returns. Resuming continues the step counter, the optimiser,
    the schedules and the logs; the games begin anew.

    Args:
        env: What to learn from; it is not closed.
        config: Hyperparameters.
        run_dir: Holds ``checkpoints/`` and TensorBoard's and CSV logs.
        seed: Of the initial weights, the action noise and the minibatches.
        device: Where the network lives.
        resume: Go on from the newest checkpoint in ``run_dir``.
        init: A new run's first weights, policy and value net under SB3's names; random without.
        console: For progress; silent without one.

    Raises:
        UserError: ``resume`` without a usable checkpoint, ``init`` is no such file, or the loss is
            no longer finite; the last checkpoint stays.
    """
    model = build_ppo(env, config, seed, device)
    if resume:
        load(model, newest_checkpoint(run_dir))
        # The games begin anew; with the first session's random numbers they would repeat it.
        model.set_random_seed(seed + model.num_timesteps)
    elif init is not None:
        load_weights(model, init)
    logs = str(run_dir / "logs")
    tensorboard = TensorBoardOutputFormat(logs)
    if resume:
        # A session that was killed wrote points after its last checkpoint: they come again. This
        # is what SummaryWriter's purge_step does, which SB3 does not pass on.
        begin = Event(step=model.num_timesteps + 1, session_log=SessionLog(status=SessionLog.START))
        tensorboard.writer.file_writer.add_event(begin)  # type: ignore[attr-defined]
    logger = Logger(logs, [tensorboard, make_output_format("csv", logs, f"_{model.num_timesteps}")])
    model.set_logger(logger)
    remaining = config.n_timesteps - model.num_timesteps
    with (
        closing(logger),
        graceful_stop() as stop,
        TrainingProgress("PPO", config.n_timesteps, model.num_timesteps, console) as progress,
    ):
        if remaining > 0:
            keeper = _Keeper(config.checkpoint_interval, run_dir, stop, progress)
            _learn(model, remaining, keeper, reset_num_timesteps=not resume)
        checkpoint = save(model, run_dir)
    return TrainingResult(
        n_timesteps=model.num_timesteps,
        finished=model.num_timesteps >= config.n_timesteps,
        checkpoint=checkpoint,
    )


def _learn(model: PPO, n: int, keeper: BaseCallback, *, reset_num_timesteps: bool) -> None:
    try:
        model.learn(n, callback=keeper, reset_num_timesteps=reset_num_timesteps)
    except FloatingPointError as error:
        raise UserError(
            f"{error}; begin a new run with a lower --ppo.learning-rate, if need be with "
            "--init from policy.safetensors in this one's last checkpoint"
        ) from None


def mean_return(model: PPO) -> float | None:
    """Mean raw return of the last 100 full games, or None before the first has ended."""
    games = model.ep_info_buffer or ()
    return sum(game["r"] for game in games) / len(games) if games else None


class _Keeper(BaseCallback):
    """Shows progress, writes checkpoints, and stops when the user asks."""

    def __init__(
        self, interval: int, run_dir: Path, stop: StopRequest, progress: TrainingProgress
    ) -> None:
        super().__init__()
        self._interval = interval
        self._run_dir = run_dir
        self._stop = stop
        self._progress = progress

    def _on_training_start(self) -> None:
        self._saved = self._learnt = self.num_timesteps

    def _on_step(self) -> bool:
        if self._stop.requested:
            # Nobody will learn from this rollout, so its steps do not count.
            self.model.num_timesteps = self._learnt
        return not self._stop.requested

    def _on_rollout_end(self) -> None:
        score = mean_return(self.model)  # type: ignore[arg-type]
        shown = "-" if score is None else f"{score:.{decimals(score)}f}"
        self._progress.update(self.num_timesteps, f"return {shown}")

    def _on_rollout_start(self) -> None:
        # Here the last update is complete, so weights, optimiser and counter agree.
        self._learnt = self.num_timesteps
        if self.num_timesteps - self._saved >= self._interval:
            save(self.model, self._run_dir)  # type: ignore[arg-type]
            self._saved = self.num_timesteps
            self._progress.milestone()


def save(model: PPO, run_dir: Path) -> Path:
    """Write weights, optimiser and counters; see ``core.checkpoint.save_checkpoint``."""
    return save_checkpoint(
        run_dir,
        model.num_timesteps,
        {
            "policy": model.policy.state_dict(),
            "optimizer": optimizer_tensors(model.policy.optimizer),
        },
        PPOState(
            n_timesteps=model.num_timesteps,
            n_updates=model._n_updates,
            recent_games=tuple(
                RecentGame(game["r"], game["l"], game["t"]) for game in model.ep_info_buffer or ()
            ),
        ),
    )


def load_weights(model: PPO, path: Path) -> None:
    """Put a file's weights into ``model``; counters and optimiser stay as they are.

    Args:
        model: A ``PPO`` of ``build_ppo``.
        path: Policy and value net under SB3's names, as a checkpoint's ``policy.safetensors``.

    Raises:
        UserError: The file is missing or damaged, or belongs to another network.
    """
    stored = load_tensors(path)
    # SB3 lists the trunk three times; each parameter once is enough.
    wanted = dict(model.policy.named_parameters())
    listed = set(model.policy.state_dict())
    fits = all(name in stored and stored[name].shape == t.shape for name, t in wanted.items())
    if not fits or not listed.issuperset(stored):
        raise UserError(f"{path} belongs to another network or game")
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(stored[name])


def load(model: PPO, folder: Path) -> None:
    """Put a checkpoint's weights, optimiser state and counters into ``model``.

    Raises:
        UserError: A file is missing or damaged, or belongs to another network.
    """
    state = load_state(PPOState, folder)
    load_weights(model, folder / "policy.safetensors")
    load_optimizer_tensors(model.policy.optimizer, load_tensors(folder / "optimizer.safetensors"))
    if isinstance(model, FastPPO):
        model.forget_graphs()
    model.num_timesteps = state.n_timesteps
    model._n_updates = state.n_updates
    games = (asdict(game) for game in state.recent_games)
    model.ep_info_buffer = deque(games, maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)
