"""Networks and games small enough to know what they must do."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from ztw_rl.core.checkpoint import newest_checkpoint
from ztw_rl.core.heads import Connection, MapClassifier, MapConfig
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.rl.atari.emulators import AtariTransition
from ztw_rl.rl.networks.layers import ScalePixels


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run on this machine."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and this machine has none")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Torch on one thread, as small networks run fastest."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class AsImage(nn.Module):
    """(B, D) features as (B, D, 1, 1), which ICs read."""

    def forward(self, x):
        return x[..., None, None]


def _make_model(
    *,
    n_ics: int,
    method: str = "ztw",
    n_classes: int = 3,
    n_blocks: int | None = None,
    attach: list[int] | None = None,
    ensemble_head: bool = False,
    mlp: bool = False,
    pixels: bool = False,
    seed: int = 0,
) -> EarlyExitModel:
    """A random network on (B, 4, 6, 6), or on (B, 8) if ``mlp``, in eval mode.

    With ``pixels`` its input is uint8, and a block before the others scales it.
    """
    torch.manual_seed(seed)
    n_blocks = n_ics + 1 if n_blocks is None else n_blocks
    attach = list(range(1, n_ics + 1)) if attach is None else attach
    if mlp:
        blocks = [
            nn.Sequential(nn.Flatten(), nn.Linear(8, 8), nn.ReLU(), AsImage())
            for _ in range(n_blocks)
        ]
        size, channels, flat = (1, 1), 8, 8
    else:
        blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(n_blocks)]
        size, channels, flat = (6, 6), 4, 4 * 36
    if pixels:
        blocks, attach = [ScalePixels(), *blocks], [place + 1 for place in attach]
    parts = METHODS[method]
    ics = [
        MapClassifier(
            MapConfig(channels, size, 3),
            Connection(
                n_classes,
                cascade=parts.cascade and m > 0,
                stop_gradient=parts.stop_gradient,
                layer_norm=m % 2 == 0,
            ),
        )
        for m in range(n_ics)
    ]
    ensemble = None
    if parts.ensemble is not None and n_ics + ensemble_head > 0:
        ensemble = parts.ensemble(n_ics + ensemble_head, n_classes)
        nn.init.normal_(ensemble.log_biases)
    model = EarlyExitModel(
        blocks, nn.Sequential(nn.Flatten(), nn.Linear(flat, n_classes)), ics, attach, ensemble
    )
    # Louder logits, so that confidences spread over the thresholds.
    with torch.no_grad():
        for ic in model.ics:
            ic.linear.weight.mul_(8)
        if pixels:
            _spread(model)
    return model.eval()


def _spread(model: EarlyExitModel) -> None:
    """Shift and scale all logits so that answers depend on the picture, at every exit."""
    n_classes = model.head[1].out_features
    x = torch.from_numpy(PatchGames(128, n_actions=n_classes).reset(np.arange(128)))
    previous = None
    for m, segment in enumerate(model.segments):
        x = segment.read(x)
        linear = model.head[1] if m == len(model.ics) else model.ics[m].linear
        linear.bias.zero_()
        _, logits = segment.classify(x, previous)
        scale = 2 / logits.std(dim=0)
        linear.weight.mul_(scale.unsqueeze(1))
        linear.bias.copy_(-logits.mean(dim=0) * scale)
        _, previous = segment.classify(x, previous)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., EarlyExitModel]:
    """Builds random early-exit networks: see ``_make_model``."""
    return _make_model


class PatchGames:
    """An ``EnvBatch`` of N games in which a bright patch says which action pays.

    Each decision shows a patch in one of A places, on noise; the action of the same number brings
    one point, any other nothing. The best return is the game's length, and random play gets one
    A-th of it. Everything follows from the game's seed. A game that nobody seeds is seeded by
    its predecessor. It begins after ``seed % 7`` frames, and a decision takes four.

    Args:
        n_envs: N.
        n_actions: A.
        size: Side of the picture.
        length: Decisions of a game, from its seed.
    """

    def __init__(
        self,
        n_envs: int,
        *,
        n_actions: int = 3,
        size: int = 6,
        length: Callable[[int], int] = lambda seed: 10,
    ) -> None:
        self.n_envs = n_envs
        self.observation_space = Box(0, 255, (4, size, size), np.uint8)
        self.action_space = Discrete(n_actions)
        self._length = length
        self._rngs = [np.random.default_rng(0)] * n_envs
        self._left = np.zeros(n_envs, int)
        self.episode_frames = np.zeros(n_envs, np.int32)
        self._pays = np.zeros(n_envs, int)
        self._observations = np.zeros((n_envs, 4, size, size), np.uint8)
        self.sent: list[np.ndarray] = []
        """Actions of each step."""
        self.started: list[tuple[int, int]] = []
        """(game, seed) of each game that somebody seeded."""

    def _begin(self, i: int, seed: int) -> None:
        self._rngs[i] = np.random.default_rng(seed)
        self._left[i] = self._length(seed)
        self.episode_frames[i] = seed % 7
        self._show(i)

    def _show(self, i: int) -> None:
        rng, n_actions = self._rngs[i], int(self.action_space.n)
        self._pays[i] = rng.integers(n_actions)
        width = self._observations.shape[-1] // n_actions
        picture = rng.integers(0, 64, self._observations.shape[1:], np.uint8)
        picture[..., self._pays[i] * width : (self._pays[i] + 1) * width] += 190
        self._observations[i] = picture

    def reset(self, seeds: np.ndarray, which: np.ndarray | None = None) -> np.ndarray:
        chosen = np.flatnonzero(np.ones(self.n_envs, bool) if which is None else which)
        for i, seed in zip(chosen, seeds, strict=True):
            self.started.append((int(i), int(seed)))
            self._begin(i, int(seed) if seed >= 0 else int(self._rngs[i].integers(2**31)))
        return self._observations.copy()

    def send(self, actions: np.ndarray) -> None:
        assert actions.shape == (self.n_envs,)
        assert all(self.action_space.contains(int(a)) for a in actions)
        self.sent.append(np.array(actions))

    def receive(self) -> AtariTransition:
        rewards = (self.sent[-1] == self._pays).astype(np.int32)
        self._left -= 1
        self.episode_frames += 4
        over = self._left == 0
        final = self._observations
        for i in range(self.n_envs):
            if not over[i]:
                self._show(i)
        if over.any():
            final = self._observations.copy()
        for i in np.flatnonzero(over):
            self._begin(i, int(self._rngs[i].integers(2**31)))
        no = np.zeros(self.n_envs, bool)
        lives = np.zeros(self.n_envs, np.int32)
        return AtariTransition(
            self._observations.copy(), rewards, no, over, no, final.copy(), lives
        )

    def step(self, actions: np.ndarray) -> AtariTransition:
        self.send(actions)
        return self.receive()

    def close(self) -> None:
        """Nothing to give back."""


def _logged_steps(logs: Path, tag: str) -> list[int]:
    """Steps of a scalar as TensorBoard shows them."""
    return [point.step for point in EventAccumulator(str(logs)).Reload().Scalars(tag)]


@pytest.fixture(scope="session")
def logged_steps() -> Callable[[Path, str], list[int]]:
    """Reads a folder of TensorBoard's logs."""
    return _logged_steps


@pytest.fixture(scope="session")
def age_logs() -> Callable[[Path], None]:
    """Makes a run's logs earlier than those that a test writes in the same second."""

    def age(run_dir: Path) -> None:
        # Files are read in order of their names, which tell the second.
        for path in (run_dir / "logs").glob("events.*"):
            path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))

    return age


@pytest.fixture(scope="session")
def lose_newest_checkpoint(age_logs) -> Callable[[Path], None]:
    """Leaves a run as a kill does that comes after points were logged, before they were saved."""

    def lose(run_dir: Path) -> None:
        shutil.rmtree(newest_checkpoint(run_dir))
        age_logs(run_dir)

    return lose


@pytest.fixture(scope="session")
def patch_games() -> type[PatchGames]:
    """Games with a known optimum."""
    return PatchGames
