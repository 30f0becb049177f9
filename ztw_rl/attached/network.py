"""Exits on a classifier of the user's own, and what may be done with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ztw_rl import fits
from ztw_rl.api import Wishes, check_wishes
from ztw_rl.attached.base import Learner
from ztw_rl.console import plain_console
from ztw_rl.core.choice import Outcome, Threshold, Unreachable
from ztw_rl.core.cut import Cut, chain, cut
from ztw_rl.core.deployable import Deployable
from ztw_rl.core.model import METHODS
from ztw_rl.errors import UserError
from ztw_rl.points.classifier import ClassifierPoint, cross_fitted, pick, tried
from ztw_rl.points.targets import DEFAULT, Proposal, flag
from ztw_rl.supervised.attached import AttachedNetwork, load_exits, save_exits
from ztw_rl.supervised.config import EnsembleTraining, ICTraining
from ztw_rl.supervised.data.loader import LoaderSource, check_repeatable
from ztw_rl.supervised.engine import SingleProcess
from ztw_rl.supervised.evaluate import Answers, collect
from ztw_rl.supervised.train_ics import train_ics

UNFITTED = "not fitted yet, so the full network answers"
HELD_OUT = "held-out inputs"
Loader = Iterable[object]
"""Batches: (inputs, labels), (inputs, None) or inputs alone. Inputs are (B, …) as the network takes
them, labels (B,) whole numbers."""


@dataclass(frozen=True)
class Fit:
    """All settings of a fit: the ``config.json`` of its folder."""

    method: str
    places: tuple[str, ...]
    """Submodules that the exits lie behind."""
    labelled: bool
    """Whether the loader gives labels."""
    n_epochs: int
    learning_rate: float
    ensemble_epochs: int
    seed: int


class Attached(Learner):
    """A user's network with exits; see ``attach.attach``.

    Until it is fitted the full network answers. From then on an exit answers whose confidence
    exceeds 0.9, and after ``calibrate`` what that has chosen. ``repr`` tells which it is.
    """

    learns_by = "fit"

    def __init__(self, name: str, network: AttachedNetwork) -> None:
        self._network = network
        self._seen: Answers | None = None
        super().__init__(name, network.trained, network.x, network.labels, UNFITTED, seed=None)

    @property
    def exits(self) -> tuple[str, ...]:
        """Submodules that the exits lie behind; the network's own head is the last exit."""
        return self._network.places

    @property
    def costs(self) -> tuple[float, ...]:
        """Operations up to each exit, the network's own head last, over those of the network."""
        return self._network.relative_macs()

    def fit(
        self,
        loader: Loader,
        *,
        n_epochs: int = 50,
        learning_rate: float = 1e-3,
        ensemble_epochs: int = 500,
        seed: int = 0,
        run_dir: str | Path | None = None,
        resume: bool = False,
        quiet: bool = False,
    ) -> None:
        """Let the exits learn; the network itself stays as it is.

        They learn the labels, or, where the loader gives none, what the network itself says. It
        runs where the network is. Ctrl-C saves a checkpoint, if there is a ``run_dir``, and
        raises ``KeyboardInterrupt``. Fitting twice goes on from the first time's weights.

        Example:
            >>> ee.fit(loader, n_epochs=10, run_dir="runs/mine")

        Args:
            loader: Gives (inputs, labels), (inputs, None) or inputs, as often as it is iterated. A
                ``DataLoader`` that shuffles by a generator of its own cannot be resumed exactly.
            n_epochs: Passes over it.
            learning_rate: Of Adam; a tenth of it after 30 % of the passes.
            ensemble_epochs: Passes over the exits' stored answers for the ensembles, if the method
                has any.
            seed: Of the chance that is left to torch's global generator, which is as before
                afterwards.
            run_dir: Folder of settings, checkpoints and TensorBoard's logs; without one, nothing is
                written.
            resume: Go on with the newest checkpoint in ``run_dir``.
            quiet: No progress bar.

        Raises:
            UserError: The loader gives something else, a setting is out of range, or ``run_dir``
                cannot be resumed or written.
            KeyboardInterrupt: The user stopped it.
        """
        check_repeatable(loader)
        config = ICTraining(
            n_epochs=n_epochs,
            learning_rates=(learning_rate, learning_rate / 10),
            ensemble=EnsembleTraining(n_epochs=ensemble_epochs),
        )
        network = self._network
        source = LoaderSource(loader, network.x, len(network.labels))
        folder = None if run_dir is None else Path(run_dir)
        with self._chance():
            settings = Fit(
                network.method,
                network.places,
                source.labelled,
                n_epochs,
                learning_rate,
                ensemble_epochs,
                seed,
            )
            with fits.folder(folder, settings, resume):
                finished = train_ics(
                    network.trained,
                    source,
                    config,
                    folder,
                    seed=seed,
                    engine=SingleProcess(str(network.x.device)),
                    resume=resume,
                    console=plain_console(stderr=True, quiet=quiet),
                )
        if not finished:
            raise KeyboardInterrupt
        self._has_learnt()

    def calibrate(
        self,
        held_out: Loader,
        *,
        threshold: float | None = None,
        keep: float | None = None,
        budget: float | None = None,
        risk: float | tuple[float, float] | None = None,
    ) -> Outcome | None:
        """Choose when to leave early, for ``decide`` and ``export``.

        Example:
            >>> ee.calibrate(held_out, budget=0.6).score

        Args:
            held_out: Inputs that nothing was fitted on; see ``fit``. Without labels, right is what
                the network itself says.
            threshold: A confidence, 0 … 1, or one of the next three.
            keep: Share of the network's accuracy to keep, at the fewest operations.
            budget: Share of its operations, for the best accuracy.
            risk: Largest expected share of answers that differ from the network's; or that and
                a confidence, 0.95 without.

        Returns:
            What it is worth: the score is the accuracy, the cost a share of the network's
            operations. A choice is made on one half and tried on the other, in turn; None if a
            half allows no choice.

        Raises:
            UserError: It is not fitted yet, the loader gives something else, not exactly one
                wish is given, or nothing fulfils it.
        """
        self._exportable()
        share, confidence = _risk(risk)
        wishes = Wishes(threshold, keep, budget, share)
        check_wishes("confidence", wishes, self._network.trained.n_exits)
        if not wishes.given():
            raise UserError("nothing is asked for; give budget, keep, risk or threshold")
        point = ClassifierPoint(threshold, budget, keep, share, confidence)
        source = LoaderSource(held_out, self._network.x, len(self.labels))
        with self._chance():
            seen = collect(self._network.trained, source)
        proposal, worth = self._chosen(point, seen)
        self._seen = seen
        reasons = list(proposal.reasons)
        if not source.labelled:
            reasons.append("without labels, right is what the network says")
        self._settle(Proposal(proposal.point, tuple(reasons), proposal.record), "; ".join(reasons))
        return worth

    def save(self, folder: str | Path) -> None:
        """Write the exits and the operating point, without the network; see ``load_weights``.

        Args:
            folder: It is made if it is not there.

        Raises:
            UserError: It is not fitted yet, or cannot be written.
        """
        self._exportable()
        assert self._loaded is not None
        n_ics = len(self._network.places)
        save_exits(Path(folder), self._network, self._loaded.each(n_ics), self._told)

    def load_weights(self, folder: str | Path) -> Attached:
        """Take over the exits and the operating point that ``save`` wrote.

        Example:
            >>> ee = ztw_rl.attach(network, example=images[:1]).load_weights("exits")

        Args:
            folder: What ``save`` wrote, of the same network with exits at the same places.

        Returns:
            Itself.

        Raises:
            UserError: There is nothing, it is damaged, or it belongs to another network.
        """
        point = load_exits(Path(folder), self._network)
        self._has_learnt()
        self._settle(Proposal(Threshold(point.thresholds), (point.told,)), point.told)
        return self

    def _has_learnt(self) -> None:
        """The exits may answer now; what was calibrated before is void."""
        self._learnt, self._seen = True, None
        default = Proposal(Threshold(DEFAULT))
        self._settle(default, f"{default}, which nothing was calibrated for")

    def _deployable(self) -> Deployable:
        return self._network

    def _propose(self, wishes: Wishes) -> Proposal:
        """See ``api.Propose``: on the inputs of the last calibration."""
        point = ClassifierPoint(wishes.threshold, wishes.budget, wishes.keep, wishes.risk)
        if wishes.threshold is not None:
            return Proposal(Threshold(wishes.threshold))
        if self._seen is None:
            raise UserError(
                f"{wishes.given()[0]} is chosen on held-out inputs; give them to calibrate first"
            )
        return self._chosen(point, self._seen)[0]

    def _chosen(self, point: ClassifierPoint, seen: Answers) -> tuple[Proposal, Outcome | None]:
        """The operating point that is asked for, and what it is worth."""
        costs, target = self.costs, point.target
        if target is None:
            assert point.threshold is not None
            return tried(point, Threshold(point.threshold), seen, costs, HELD_OUT)
        choice = pick(point, target, seen, costs)
        if isinstance(choice, Unreachable):
            raise UserError(f"{flag(target).removeprefix('--')} {choice.why}")
        return cross_fitted(point, choice, seen, HELD_OUT), choice.expected

    @contextmanager
    def _chance(self) -> Iterator[None]:
        """Leaves torch's global generators as they were."""
        device = self._network.x.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield


def attach_network(
    network: nn.Module,
    *,
    example: Tensor,
    exits: int | Sequence[str] = 3,
    method: str = "ztw",
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> Attached:
    """Hang early exits on a trained classifier; see ``attach.attach``.

    Args:
        network: From (B, …) to (B, C) logits; ``torch.fx`` must be able to trace it. It is put
            into eval mode and frozen, and shares its parameters with what is returned.
        example: (B, …), any input of the right shape and type, where the network is.
        exits: How many to add to the network's own head, or the names of the submodules that they
            lie behind, as ``network.named_modules()`` has them.
        method: ``ztw``, ``sdn``, ``cascade``, ``ensemble``, ``additive`` or ``no_stop_gradient``.
        labels: What the classes are called, in order; their numbers by default.
        seed: Of the exits' initial weights.

    Raises:
        UserError: The network cannot be traced, cut there, or be told from its example.
    """
    named = not isinstance(exits, str | int) and all(isinstance(name, str) for name in exits)
    if isinstance(exits, bool) or not (named or isinstance(exits, int)):
        raise UserError(f"exits must be a number or a list of submodules' names, not {exits!r}")
    x = _one(example, method)
    found = cut(network, x, exits)
    return _attached(type(network).__name__, found, x, method, labels, seed)


def attach_blocks(
    blocks: Sequence[nn.Module],
    head: nn.Module,
    *,
    example: Tensor,
    method: str = "ztw",
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> Attached:
    """Hang early exits on a trained classifier that comes in parts; see ``attach.attach``.

    This is for networks that ``torch.fx`` cannot trace, such as those that go another way for other
    inputs.

    Example:
        >>> ee = ztw_rl.attach_blocks([stem, body], head, example=images[:1])

    Args:
        blocks: In order, each from the features of the one before; an exit lies behind each.
        head: From the last block's features to (B, C) logits.
        example: (B, …), any input of the right shape and type, where the parts are.
        method: See ``attach.attach``.
        labels: See ``attach.attach``.
        seed: See ``attach.attach``.

    Raises:
        UserError: There is no block, or one of them or the head gives something else.
    """
    parts = [*blocks, head]
    for part in parts:
        if not isinstance(part, nn.Module):
            raise UserError(f"blocks and head must be torch modules, not {part!r}")
    x = _one(example, method)
    return _attached("blocks", chain(blocks, head, x), x, method, labels, seed)


def _one(example: Tensor, method: str) -> Tensor:
    """One input, when it is a tensor and the method is known."""
    if not isinstance(example, Tensor) or example.ndim < 2 or not len(example):
        shown = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise UserError(f"example must be a batch of inputs, a tensor (B, ...), not {shown}")
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.0)[0]
        raise UserError(f"there is no method '{method}'; did you mean '{near}'?")
    return example[:1].detach().clone()


def _attached(
    name: str,
    found: Cut,
    x: Tensor,
    method: str,
    labels: Sequence[str] | None,
    seed: int,
) -> Attached:
    n = found.n_classes
    if n < 2:
        raise UserError("the network gives one logit, but an exit needs two classes or more")
    if labels is not None and len(labels) != n:
        raise UserError(f"the network tells {n} classes apart, but there are {len(labels)} labels")
    names = list(map(str, range(n) if labels is None else labels))
    return Attached(name, AttachedNetwork(found, method, x, names, seed))


def _risk(risk: float | tuple[float, float] | None) -> tuple[float | None, float]:
    """Share and confidence."""
    if not isinstance(risk, tuple):
        return risk, ClassifierPoint().confidence
    if len(risk) != 2:
        raise UserError(f"risk must be a share, or a share and a confidence, not {risk}")
    return risk
