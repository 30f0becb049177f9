"""Exported models as they run, from sessions; ``ztw_rl.deploy`` reads the files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ztw_rl.decision import Decision, Rule, bound
from ztw_rl.errors import UserError
from ztw_rl.interpreters import Interpreters

CHUNK = 16
"""Samples of a larger batch that run at once. Features of more fall out of a core's cache between
one layer and the next, and the operating system clears fresh pages for them at every call."""
OUTPUTS = ("next_features", "next_logits", "log_probs", "confidence")
"""Of each graph."""
LAST_OUTPUTS = OUTPUTS[2:]
"""Of the last exit's graph."""


def outputs_by(rule: Rule) -> tuple[str, ...]:
    """Outputs of each graph but the last: a signal as well, unless that is the confidence."""
    return OUTPUTS if rule == "confidence" else (*OUTPUTS, "signal")


class Session(Protocol):
    """What computes: the part of ``onnxruntime.InferenceSession`` that is used."""

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Compute the named outputs."""
        ...


class Deployed(ABC):
    """An exported early-exit model.

    Args:
        metadata: What the file says of itself.
        n_exits: E.

    Raises:
        UserError: There are more or fewer thresholds than E−1.
        KeyError: Something is missing in the metadata.
    """

    def __init__(self, metadata: Mapping[str, Any], n_exits: int) -> None:
        self.metadata = metadata
        self.n_exits = n_exits
        self._shape = tuple(metadata["input_shape"])
        self._dtype = np.dtype(metadata["input_dtype"])
        self._n_classes = int(metadata["n_classes"])
        # Files of former versions name no rule.
        self.rule: Rule = metadata.get("rule", "confidence")
        self._proposed = self._bounds(metadata["thresholds"])

    def predict(self, x: npt.NDArray[Any], threshold: npt.ArrayLike | None = None) -> Decision:
        """Answer a batch; samples that have left are computed no further.

        Args:
            x: (B, …), with the shape and type that the metadata name.
            threshold: τ for all ICs, or E−1 of them; by default those in the metadata. A sample
                leaves at the first exit whose highest probability (or margin, if that is the
                file's ``rule``) exceeds it, or with ``gate`` whose predicted regret is below it.
                A sample with NaN in it leaves at the last.

        Raises:
            UserError: ``x`` or the thresholds don't fit.
        """
        return self.decide(x, self._proposed if threshold is None else self._bounds(threshold))

    def decide(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        """Answer a batch; see ``predict``.

        Args:
            x: (B, …).
            bounds: E−1, what the exits' signals must exceed; see ``decision.bound``.

        Raises:
            UserError: ``x`` doesn't fit.
        """
        if x.shape[1:] != self._shape or x.dtype != self._dtype:
            raise UserError(
                f"the input is {x.dtype} {x.shape}, but the model takes "
                f"{self._dtype} (B, {', '.join(map(str, self._shape))})"
            )
        return self._answered(x, bounds)

    def _answered(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        """Answer a batch that fits."""
        answer = self._predict_one if len(x) == 1 else self._predict_batch
        return answer(x, bounds)

    @abstractmethod
    def _predict_one(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision: ...

    @abstractmethod
    def _predict_batch(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision: ...

    def _bounds(self, given: npt.ArrayLike) -> list[float]:
        """E−1, rounded as signals are."""
        rounded = np.asarray(given, np.float32)
        if rounded.ndim == 0:
            return [bound(self.rule, rounded.item())] * (self.n_exits - 1)
        thresholds = [bound(self.rule, each) for each in rounded.ravel().tolist()]
        if len(thresholds) != self.n_exits - 1:
            raise UserError(f"{self.n_exits - 1} thresholds are needed, not {len(thresholds)}")
        return thresholds


class OneFileModel(Deployed):
    """An early-exit model whose one graph decides itself, one input at a time.

    Args:
        session: From the input and thresholds to the answer.
        metadata: What the file says of itself.

    Raises:
        UserError: There are more or fewer thresholds than E−1.
        KeyError: Something is missing in the metadata.
    """

    def __init__(self, session: Session, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, int(metadata["n_exits"]))
        self._session = session

    def _predict_one(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        feed = {"x": x, "thresholds": _thresholds(self.rule, tuple(bounds))}
        exits, confidences, log_probs = self._session.run(("exit", "confidence", "log_probs"), feed)
        return Decision(log_probs.argmax(axis=1), exits, confidences, log_probs)

    def _predict_batch(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        """One after another."""
        found = [self._predict_one(x[i : i + 1], bounds) for i in range(len(x))]
        if not found:
            none = np.zeros(0, np.int64)
            return Decision(none, none, np.zeros(0, np.float32), np.zeros((0, self._n_classes)))
        return Decision(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


@lru_cache
def _thresholds(rule: Rule, bounds: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """What bounds are made of: the graph makes them itself."""
    return np.array([bound(rule, each) for each in bounds], np.float32)


class DeployedModel(Deployed):
    """An early-exit model as one session per exit.

    Args:
        sessions: E, in order.
        metadata: What ``metadata.json`` holds.

    Raises:
        UserError: There are more or fewer thresholds than E−1.
        KeyError: Something is missing in the metadata.
    """

    def __init__(self, sessions: Sequence[Session], metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata, len(sessions))
        self._sessions = tuple(sessions)
        self._head_is_ensembled = bool(metadata["head_is_ensembled"])
        self._outputs = outputs_by(self.rule)

    def run_exit(
        self, m: int, features: npt.NDArray[Any], logits: npt.NDArray[Any] | None
    ) -> list[npt.NDArray[Any]]:
        """One exit for the whole batch, for callers with another rule than ``predict``'s.

        Args:
            m: Exit, 0 … E−1.
            features: What the exit before passed on; the model's input for m = 0.
            logits: The same; none for m = 0.

        Returns:
            Features and logits for the next exit, unless m is the last; log-probabilities
            (B, C) and confidences (B,); signals (B,), if exits are judged by another one.
        """
        return self._sessions[m].run(*self._asked(m, features, logits))

    def _asked(
        self, m: int, features: npt.NDArray[Any], logits: npt.NDArray[Any] | None
    ) -> tuple[Sequence[str], dict[str, npt.NDArray[Any]]]:
        """Outputs and inputs of an exit's session."""
        feed = {"features": features}
        # The last exit has no use for the others' logits unless it is ensembled.
        if logits is not None and (m < self.n_exits - 1 or self._head_is_ensembled):
            feed["logits"] = logits
        return self._outputs if m < self.n_exits - 1 else LAST_OUTPUTS, feed

    def _run_shown(
        self, m: int, features: npt.NDArray[Any], logits: npt.NDArray[Any] | None
    ) -> list[npt.NDArray[Any]]:
        """The same, with outputs that may change at the next call."""
        return self.run_exit(m, features, logits)

    def _predict_one(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        """One sample: nothing to compact, so nothing to keep track of."""
        logits = None
        for m, least in enumerate(bounds):
            outputs = self.run_exit(m, x, logits)
            x, logits, log_probs, confidence = outputs[:4]
            if outputs[-1].item() > least:
                break
        else:
            m = self.n_exits - 1
            log_probs, confidence = self.run_exit(m, x, logits)
        return Decision(log_probs.argmax(axis=1), np.array([m]), confidence, log_probs)

    def _predict_batch(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        """Samples that stay wait for the next exit until there are enough of them for one run."""
        exits = np.full(len(x), self.n_exits - 1)
        confidences = np.zeros(len(x), np.float32)
        log_probs = np.zeros((len(x), self._n_classes), np.float32)
        waiting = [_Waiting() for _ in range(self.n_exits)]

        def run(
            m: int,
            own: npt.NDArray[np.int64],
            features: npt.NDArray[Any],
            logits: npt.NDArray[Any] | None = None,
        ) -> None:
            outputs = self._run_shown(m, features, logits)
            is_last = m == self.n_exits - 1
            # For those that stay they are overwritten later.
            log_probs[own], confidences[own] = outputs if is_last else outputs[2:4]
            if is_last:
                return
            leaves = outputs[-1] > np.float32(bounds[m])
            exits[own[leaves]] = m
            stays = ~leaves
            waiting[m + 1].add(own[stays], *(part[stays] for part in outputs[:2]))

        for start in range(0, len(x), CHUNK):
            chunk = x[start : start + CHUNK]
            run(0, np.arange(start, start + len(chunk)), chunk)
            for m in range(1, self.n_exits):
                if waiting[m].n >= CHUNK:
                    run(m, *waiting[m].take())
        for m in range(1, self.n_exits):
            if waiting[m].n:
                run(m, *waiting[m].take())
        return Decision(log_probs.argmax(axis=1), exits, confidences, log_probs)


class LitertModel(DeployedModel):
    """An early-exit model on LiteRT: a ``DeployedModel`` whose exits hand over without a detour.

    Args:
        exits: E, in order.
        metadata: What the file says of itself.

    Raises:
        UserError: There are more or fewer thresholds than E−1.
        KeyError: Something is missing in the metadata.
    """

    def __init__(self, exits: Sequence[Interpreters], metadata: Mapping[str, Any]) -> None:
        super().__init__(exits, metadata)
        self.exits = tuple(exits)
        self._signal = self._outputs[-1]
        self._state = {"next_features": "features", "next_logits": "logits"}
        self._last_state = dict(self._state)
        if not self._head_is_ensembled:
            del self._last_state["next_logits"]

    def _answered(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        """LiteRT's maximum loses NaN, so inputs with it are set apart."""
        if self._dtype.kind == "f" and len(x):
            broken = np.isnan(x).reshape(len(x), -1).any(axis=1)
            if broken.any():
                return self._apart(x, bounds, broken)
        return super()._answered(x, bounds)

    def _apart(
        self, x: npt.NDArray[Any], bounds: Sequence[float], broken: npt.NDArray[np.bool_]
    ) -> Decision:
        """Let some of the inputs go to the end, and no exit answer them before."""
        parts = (
            super()._answered(x[~broken], bounds),
            super()._answered(x[broken], [np.inf] * len(bounds)),
        )
        order = np.argsort(np.concatenate([np.flatnonzero(~broken), np.flatnonzero(broken)]))
        return Decision(*(np.concatenate(both)[order] for both in zip(*parts, strict=True)))

    def _run_shown(
        self, m: int, features: npt.NDArray[Any], logits: npt.NDArray[Any] | None
    ) -> list[npt.NDArray[Any]]:
        return self.exits[m].shown(*self._asked(m, features, logits))

    def _predict_one(self, x: npt.NDArray[Any], bounds: Sequence[float]) -> Decision:
        running = self.exits[0].begin("features", x)
        last = m = self.n_exits - 1
        for m, least in enumerate(bounds):
            if running.output(self._signal).item() > least:
                break
            state = self._state if m + 1 < last else self._last_state
            running = self.exits[m + 1].go_on(running, state)
        else:
            m = last
        log_probs = running.output("log_probs")
        labels = log_probs.argmax(axis=1)
        return Decision(labels, np.array([m]), running.output("confidence"), log_probs)


class _Waiting:
    """Samples before an exit."""

    def __init__(self) -> None:
        self.n = 0
        self._parts: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, *arrays: npt.NDArray[Any]) -> None:
        """Let the samples of some arrays of equal length wait."""
        self.n += len(arrays[0])
        self._parts.append(arrays)

    def take(self) -> list[npt.NDArray[Any]]:
        """Everything that waits, array by array."""
        arrays = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        self.n, self._parts = 0, []
        return arrays
