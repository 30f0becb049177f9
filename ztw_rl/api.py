"""The public face: trained early-exit models, loaded and asked in a line each.

What a user attaches to a network of their own is in ``ztw_rl.attached``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ztw_rl import agents, deploy
from ztw_rl.core.backends import aoti
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.choice import Forced
from ztw_rl.core.deployable import Deployable, export
from ztw_rl.core.exits import Patience
from ztw_rl.core.runtime import Runtime, as_batch, decide
from ztw_rl.decision import Decision, answered
from ztw_rl.deploy import Format, format_of
from ztw_rl.errors import UserError
from ztw_rl.points import classifier as classifier_points
from ztw_rl.points import policy as policy_points
from ztw_rl.points.classifier import ClassifierPoint
from ztw_rl.points.policy import OperatingPoint
from ztw_rl.points.targets import Proposal
from ztw_rl.rl.agent import load_agent
from ztw_rl.supervised.classifier import CONFIG_FILE as CLASSIFIER_FILE
from ztw_rl.supervised.classifier import FOLDER as CLASSIFIER_FOLDER
from ztw_rl.supervised.classifier import load_classifier

RuleName = Literal["confidence", "patience", "full"]


@dataclass(frozen=True)
class Wishes:
    """What an operating point is asked for; at most one of them."""

    threshold: float | None = None
    keep: float | None = None
    budget: float | None = None
    risk: float | None = None

    def given(self) -> list[str]:
        """Names of those that are asked for."""
        return [name for name, value in vars(self).items() if value is not None]


Propose = Callable[[Wishes], Proposal]
"""From what is asked for to the operating point."""


class EarlyExit:
    """A trained early-exit policy or classifier, ready to be asked; see ``load``.

    Args:
        name: What it is called.
        answer: From a (B, …) batch to what is answered.
        example: (1, …), any input of the right shape and type.
        labels: Of the actions or classes.
        told: How it is run, in words.
        origin: The trained model, and what proposes its operating points; None of an exported file.
        loaded: The operating point that it was loaded with; None of a rule that no file knows.
        seed: Of sampled actions; None of a classifier, which never samples.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[Tensor], Decision],
        example: Tensor,
        labels: list[str],
        told: str,
        origin: tuple[Deployable, Propose] | None,
        loaded: Proposal | None,
        seed: int | None,
    ) -> None:
        self.name = name
        self.labels = labels
        self._answer = answer
        self._shape = tuple(example.shape[1:])
        self._dtype = example.dtype
        self._told = told
        self._origin = origin
        self._loaded = loaded
        self._rng = None if seed is None else np.random.default_rng(seed)

    def __repr__(self) -> str:
        return f"EarlyExit({self.name!r}): {self._told}"

    def decide(self, x: npt.ArrayLike | Tensor) -> Decision:
        """Answer one input or a batch; what has been answered is computed no further.

        Example:
            >>> import numpy as np, ztw_rl
            >>> agent = ztw_rl.load("pong")
            >>> decision = agent.decide(np.zeros((4, 84, 84), np.uint8))
            >>> decision.actions, decision.exits, decision.confidences

        Args:
            x: An array or a tensor; a policy's frames as (4, 84, 84) or (84, 84, 4), uint8, or a
                batch of such.

        Returns:
            The decision; of a single input each part without the batch's dimension.

        Raises:
            UserError: ``x`` has another shape or type.
        """
        batch, single = as_batch(x, self._shape, self._dtype)
        decision = self._answer(batch)
        return Decision(*(part[0] for part in decision)) if single else decision

    def predict(
        self,
        observation: npt.ArrayLike | Tensor,
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[np.int64], tuple[npt.NDArray[Any], ...] | None]:
        """Actions, by Stable-Baselines3's protocol: ``evaluate_policy(agent, env)`` works.

        Args:
            observation: What ``decide`` takes.
            state: Handed back as it is; the policy has no memory.
            episode_start: Not used.
            deterministic: The likeliest action rather than a sample, which is the default as in
                Stable-Baselines3. A classifier never samples.

        Returns:
            (B,) actions, or () for a single observation; and ``state``.

        Raises:
            UserError: The observation has another shape or type.
        """
        log_probs = self.decide(observation).log_probs
        if self._rng is not None and not deterministic:
            log_probs = log_probs + self._rng.gumbel(size=log_probs.shape)
        actions: npt.NDArray[np.int64] = np.asarray(log_probs.argmax(axis=-1))
        return actions, state

    def export(
        self,
        path: str | Path,
        *,
        format: Format | None = None,
        threshold: float | None = None,
        keep: float | None = None,
        budget: float | None = None,
        risk: float | None = None,
    ) -> None:
        """Write it as one file that ``ztw_rl.deploy`` runs without torch.

        Args:
            path: The file; it is replaced if it is there.
            format: ``onnx``, one ONNX file; ``onnx-stages``, a zip of one for each exit, which
                answers batches faster; ``litert``, one file for both; ``aoti``, machine code of
                this processor. By default what the path ends in: ``.onnx``, ``.tflite`` or
                ``.zip``, the stages.
            threshold: Of the file, or one of the next three; by default what it was loaded with.
            keep: Share of the full model's score to keep, at the lowest cost.
            budget: Share of its cost, for the best score.
            risk: Largest expected share of changed answers.

        Raises:
            UserError: It is an exported file itself, or no operating point will do.
        """
        deployable, propose = self._exportable()
        if format is not None and format not in get_args(Format):
            raise UserError(f"there is no format '{format}'; choose from {listed(Format)}")
        wishes = Wishes(threshold, keep, budget, risk)
        check_wishes("confidence", wishes, deployable.model.n_exits)
        proposal = propose(wishes) if wishes.given() else self._loaded
        if proposal is None:
            raise UserError("a file leaves by confidence; give threshold, keep, budget or risk")
        about: dict[str, Any] = {"name": self.name}
        if proposal.record is not None:
            about["threshold_chosen_for"] = proposal.record
        path = Path(path)
        export(path, deployable, format_of(path, format), proposal.point, about)

    def _exportable(self) -> tuple[Deployable, Propose]:
        """What ``export`` writes, and what proposes its operating points.

        Raises:
            UserError: There is nothing to write.
        """
        if self._origin is None:
            raise UserError(f"{self.name} is an exported file already; copy it")
        return self._origin


def load(
    source: str | Path,
    *,
    rule: RuleName = "confidence",
    threshold: float | None = None,
    keep: float | None = None,
    budget: float | None = None,
    backend: str | None = None,
    seed: int = 0,
    runs_dir: str | Path = "runs",
) -> EarlyExit:
    """Read a trained early-exit model.

    Without ``threshold``, ``keep`` and ``budget`` it runs at the point that ``ztw-rl export``
    proposes. ``repr`` tells which that is.

    Example:
        >>> import ztw_rl
        >>> agent = ztw_rl.load("pong", keep=0.95)

    Args:
        source: A shipped agent's name, the folder of an agent, a classifier or a run, or an
            exported file.
        rule: Who answers. ``confidence``: the first exit whose highest probability exceeds the
            threshold, or what the table that the point is chosen from was played with;
            ``patience``: the exit at which so many in a row agree; ``full``: the full network,
            without any exit.
        threshold: A confidence, 0 … 1, or a patience, a whole number of exits.
        keep: Share of the full model's score to keep, at the lowest cost.
        budget: Share of its cost, for the best score.
        backend: ``eager`` (the default), ``compiled``, ``onnx`` or ``litert``.
        seed: Of sampled actions.
        runs_dir: Where runs are that have no other name.

    Raises:
        UserError: There is no such model, or what is asked for makes no sense.
    """
    if rule not in get_args(RuleName):
        raise UserError(f"there is no rule '{rule}'; choose from {listed(RuleName)}")
    if not isinstance(source, str | Path):
        raise UserError(f"source must be a name or a path, not {source!r}")
    path = Path(source)
    if path.suffix in deploy.SUFFIXES.values() and not path.exists():
        raise UserError(f"{path} does not exist; make it with: ztw-rl export")
    wishes = Wishes(threshold, keep, budget)
    if path.is_file():
        return _from_file(path, rule, wishes, backend, seed)
    name, deployable, propose, samples = _found(str(source), Path(runs_dir))
    n_exits = deployable.model.n_exits
    check_wishes(rule, wishes, n_exits)
    x = deployable.example()
    proposal: Proposal | None = None
    answer: Callable[[Tensor], Decision]
    if rule == "confidence":
        proposal = propose(wishes)
        deployable = deployable.at(proposal.point)
    runner = make_backend(backend or "eager", deployable.model, x)
    if proposal is not None:
        each = proposal.each(n_exits - 1)
        told = "; ".join(proposal.reasons) or str(proposal)
        answer = Runtime(runner, x, each, deployable.model.rule).predict
    elif rule == "full":
        told, answer = "the full network", _full(runner.backbone, n_exits)
        proposal = Proposal(Forced(n_exits - 1))
    else:
        assert threshold is not None
        patience = Patience(torch.tensor(int(threshold)))
        told = f"patience {threshold:g}"
        answer = partial(decide, runner.segments, rule=patience)

    told = f"{told} ({runner.name})"
    labels = deployable.metadata()["labels"]
    origin = (deployable, propose)
    return EarlyExit(name, answer, x, labels, told, origin, proposal, seed if samples else None)


def listed(choices: Any) -> str:
    """What a ``Literal`` allows, in words."""
    return ", ".join(get_args(choices))


def _found(source: str, runs_dir: Path) -> tuple[str, Deployable, Propose, bool]:
    """A model in a folder, or of a shipped agent's name.

    Returns:
        Its name, the model, what proposes its operating points, and whether it is a policy.
    """
    path = Path(source)
    if any((path / part / CLASSIFIER_FILE).is_file() for part in ("", CLASSIFIER_FOLDER)):
        classifier = load_classifier(path)

        def propose(wishes: Wishes) -> Proposal:
            point = ClassifierPoint(wishes.threshold, wishes.budget, wishes.keep, wishes.risk)
            return classifier_points.choose(point, classifier, path)

        return classifier.config.run.title, classifier, propose, False
    folder = agents.find(source, runs_dir)
    agent = load_agent(folder)

    def propose_policy(wishes: Wishes) -> Proposal:
        point = OperatingPoint(wishes.threshold, wishes.budget, wishes.keep, wishes.risk)
        return policy_points.choose(point, agent, folder, runs_dir)

    return agents.file_stem(folder) or str(folder), agent, propose_policy, True


def _from_file(
    path: Path, rule: RuleName, wishes: Wishes, backend: str | None, seed: int
) -> EarlyExit:
    """A model that was exported."""
    if rule != "confidence":
        raise UserError(f"{path} brings its own rule; leave out rule={rule!r}")
    asked = [name for name in wishes.given() if name != "threshold"]
    if asked:
        raise UserError(f"{path} knows no {asked[0]}; give it to export, or name a threshold here")
    if backend is not None:
        raise UserError(f"{path} brings its own backend; leave out backend={backend!r}")
    threshold = wishes.threshold
    kind = deploy.kind_of(path)
    model = aoti.load(path) if kind == aoti.KIND else deploy.load(path)
    check_wishes("gate" if model.rule == "gate" else rule, wishes, model.n_exits)
    metadata = model.metadata
    example = torch.zeros(
        1, *metadata["input_shape"], dtype=getattr(torch, metadata["input_dtype"])
    )

    def answer(batch: Tensor) -> Decision:
        if isinstance(model, aoti.AotiModel):
            return model.predict(batch, threshold)
        return model.predict(batch.numpy(), threshold)

    proposed = metadata["thresholds"] if threshold is None else [threshold]
    source = "one file" if kind == deploy.ONE_FILE else f"{kind} file"
    told = f"thresholds {', '.join(f'{t:g}' for t in proposed)} ({source})"
    labels, samples = list(metadata["labels"]), not {"frames", "env"}.isdisjoint(metadata)
    return EarlyExit(
        str(path), answer, example, labels, told, None, None, seed if samples else None
    )


def check_wishes(rule: RuleName | Literal["gate"], wishes: Wishes, n_exits: int) -> None:
    """Whether the wishes make sense together.

    Raises:
        UserError: They do not.
    """
    asked, threshold = wishes.given(), wishes.threshold
    for name in asked:
        value = getattr(wishes, name)
        if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
            raise UserError(f"{name} must be a finite number, not {value!r}")
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} exclude one another; give one")
    if rule == "full" and asked:
        raise UserError(f"the full network has no exits to choose; leave out {asked[0]}")
    if rule == "confidence":
        if threshold is not None and not 0 <= threshold <= 1:
            raise UserError(
                f"threshold {threshold:g} is no confidence, which lies between 0 and 1; for the "
                "full network take rule='full'"
            )
        return
    if rule == "patience":
        if asked and asked != ["threshold"]:
            raise UserError(
                f"patience takes a threshold, the number of exits; leave out {asked[0]}"
            )
        if threshold is None or threshold != int(threshold) or not 1 <= threshold <= n_exits:
            raise UserError(
                f"patience counts exits, so threshold must be a whole number from 1 to {n_exits}, "
                f"not {threshold}"
            )


def _full(backbone: Callable[[Tensor], Tensor], n_exits: int) -> Callable[[Tensor], Decision]:
    """What answers with the full network alone."""

    @torch.inference_mode()
    def answer(batch: Tensor) -> Decision:
        log_probs = torch.log_softmax(backbone(batch).float(), dim=-1)
        return answered(log_probs.cpu().numpy(), np.full(len(batch), n_exits - 1))

    return answer
