"""What can be exported, timed and run: a policy or a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor

from ztw_rl.core.artefact import export_aoti, export_onnx
from ztw_rl.core.choice import Point
from ztw_rl.core.model import EarlyExitModel

Format = Literal["onnx", "aoti"]


class Deployable(Protocol):
    """A trained early-exit model and what is known of it."""

    @property
    def model(self) -> EarlyExitModel:
        """In eval mode, on the CPU."""
        ...

    def example(self) -> Tensor:
        """(1, …), any input of the right shape and type."""
        ...

    def relative_macs(self) -> tuple[float, ...]:
        """(E,) operations up to each exit, over those of the full network."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What an exported file says of it: ``labels``, ``exits`` and the like; anything JSON."""
        ...


def export(
    path: Path, deployable: Deployable, kind: Format, point: Point, about: Mapping[str, Any]
) -> None:
    """Write a model as one file, atomically.

    Args:
        path: The file.
        deployable: The model.
        kind: What runs it: ``ztw_rl.deploy``, or ``core.backends.aoti``.
        point: What applies if the caller gives no threshold.
        about: Further metadata, such as ``name``.

    Raises:
        UserError: A package or the compiler is missing.
    """
    write = {"onnx": export_onnx, "aoti": export_aoti}[kind]
    model = deployable.model
    thresholds = point.each(model.n_exits - 1)
    write(path, model, deployable.example(), thresholds, {**about, **deployable.metadata()})
