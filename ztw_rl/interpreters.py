"""LiteRT's interpreters as sessions; torch is not needed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt

from ztw_rl.errors import UserError

PACKAGE = "ai_edge_litert"


class _Ready(NamedTuple):
    """An interpreter with memory for its tensors."""

    interpreter: Any
    inputs: dict[str, int]
    """Places of the inputs by name."""
    outputs: dict[str, int]


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
        """Compute the named outputs. LiteRT has no empty inputs, so they are left out."""
        size = len(next(iter(input_feed.values())))
        interpreter, inputs, outputs = self._single() if size == 1 else self._batch(size)
        for name, value in input_feed.items():
            if value.size:
                interpreter.set_tensor(inputs[name], value)
        interpreter.invoke()
        return [interpreter.get_tensor(outputs[name]) for name in output_names]

    def _single(self) -> _Ready:
        own = self._own
        try:
            found: _Ready = own.single
        except AttributeError:
            found = own.single = self._opened()
        return found

    def _batch(self, size: int) -> _Ready:
        own = self._own
        if getattr(own, "size", None) is None:
            own.batch = self._opened()
        found: _Ready = own.batch
        if getattr(own, "size", None) != size:
            for details in found.interpreter.get_input_details():
                found.interpreter.resize_tensor_input(
                    details["index"], [size, *details["shape"][1:]]
                )
            found.interpreter.allocate_tensors()
            own.size = size
        return found

    def _opened(self) -> _Ready:
        interpreter = open_interpreter(self._model, self._n_threads, self._source)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        return _Ready(
            interpreter,
            {each["name"]: each["index"] for each in inputs},
            {each["name"]: each["index"] for each in outputs},
        )


def require_package() -> None:
    """Find out whether the extra ``litert`` is installed.

    Raises:
        UserError: It is not.
    """
    import importlib.util

    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(f"{PACKAGE} is missing; pip install 'ztw-rl[litert]'")


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
        interpreter = Interpreter(model_content=model, num_threads=n_threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} cannot be run ({reason}); export it again") from None
    return interpreter
