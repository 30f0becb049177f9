"""LiteRT's interpreters as sessions; torch is not needed."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy.typing as npt

from ztw_rl.errors import UserError

PACKAGE = "ai_edge_litert"


class Running:
    """An interpreter that has memory for its tensors.

    Args:
        interpreter: Of LiteRT, allocated.
    """

    __slots__ = ("_inputs", "_outputs", "interpreter")

    def __init__(self, interpreter: Any) -> None:
        self.interpreter = interpreter
        self._inputs = {each["name"]: each["index"] for each in interpreter.get_input_details()}
        self._outputs = {each["name"]: each["index"] for each in interpreter.get_output_details()}

    def input(self, name: str, value: npt.NDArray[Any]) -> None:
        """Copy an input."""
        self.interpreter.set_tensor(self._inputs[name], value)

    def output(self, name: str) -> npt.NDArray[Any]:
        """A copy of an output."""
        found: npt.NDArray[Any] = self.interpreter.get_tensor(self._outputs[name])
        return found

    def view(self, name: str) -> npt.NDArray[Any]:
        """An output in its place; LiteRT runs no interpreter whose memory is looked at."""
        found: npt.NDArray[Any] = self.interpreter.tensor(self._outputs[name])()
        return found

    def hand(self, follower: Running, state: Mapping[str, str]) -> None:
        """Copy outputs to another's inputs, at once.

        Args:
            follower: What takes them.
            state: Names of outputs and of its inputs.
        """
        for name, taken in state.items():
            follower.input(taken, self.view(name))


class Interpreters:
    """A LiteRT model as a session; see ``deployed.Session``.

    A thread gets interpreters of its own: one for single samples, one for batches of any size.

    Args:
        model: The file's content.
        n_threads: For the work inside a layer.
        source: Where it comes from, for errors.

    Raises:
        UserError: LiteRT is missing or cannot run the model.
    """

    def __init__(self, model: bytes, n_threads: int, source: str) -> None:
        self._model = model
        self._n_threads = n_threads
        self._source = source
        self._own = threading.local()
        self._own.single = self._opened()

    def run(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """Compute the named outputs."""
        running = self._ran(input_feed)
        return [running.output(name) for name in output_names]

    def shown(
        self, output_names: Sequence[str], input_feed: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """The same, not copied; what is shown must be let go of before the next call."""
        running = self._ran(input_feed)
        return [running.view(name) for name in output_names]

    def _ran(self, input_feed: Mapping[str, npt.NDArray[Any]]) -> Running:
        size = len(next(iter(input_feed.values())))
        running = self._single() if size == 1 else self._batch(size)
        for name, value in input_feed.items():
            running.input(name, value)
        running.interpreter.invoke()
        return running

    def begin(self, name: str, value: npt.NDArray[Any]) -> Running:
        """Compute one sample.

        Args:
            name: Of the input.
            value: (1, …).

        Returns:
            What has the outputs, until this thread computes the next sample.
        """
        running = self._single()
        running.input(name, value)
        running.interpreter.invoke()
        return running

    def go_on(self, before: Running, state: Mapping[str, str]) -> Running:
        """Compute one sample from what another model gave.

        Args:
            before: What has its outputs.
            state: Names of these and of the inputs here.

        Returns:
            See ``begin``.
        """
        running = self._single()
        before.hand(running, state)
        running.interpreter.invoke()
        return running

    def _single(self) -> Running:
        own = self._own
        try:
            found: Running = own.single
        except AttributeError:
            found = own.single = self._opened()
        return found

    def _batch(self, size: int) -> Running:
        own = self._own
        before = getattr(own, "size", None)
        if before is None:
            own.batch = self._opened()
        found: Running = own.batch
        if before != size:
            # If it fails, the next batch begins anew.
            own.size = None
            for details in found.interpreter.get_input_details():
                found.interpreter.resize_tensor_input(
                    details["index"], [size, *details["shape"][1:]]
                )
            found.interpreter.allocate_tensors()
            own.size = size
        return found

    def _opened(self) -> Running:
        return Running(open_interpreter(self._model, self._n_threads, self._source))


def require_package() -> None:
    """Find out whether the extra ``litert`` is installed.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"{PACKAGE} is missing; pip install 'ztw-rl[litert]'")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what LiteRT writes to the standard error: a greeting, and what it raises anyway."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def open_interpreter(model: bytes, n_threads: int, source: str) -> Any:
    """An interpreter with memory for one sample.

    Args:
        model: The file's content.
        n_threads: For the work inside a layer.
        source: Where it comes from, for the error.

    Raises:
        UserError: LiteRT is missing or cannot run the model.
    """
    require_package()
    from ai_edge_litert.interpreter import Interpreter

    try:
        with _quiet():
            interpreter = Interpreter(model_content=model, num_threads=n_threads)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} cannot be run ({reason}); export it again") from None
    return interpreter
