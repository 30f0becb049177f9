"""What can be exported, timed and run: a policy or a classifier."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ztw_rl import deploy
from ztw_rl.core.backends import aoti
from ztw_rl.core.backends.litert.backend import one_file
from ztw_rl.core.backends.onnx import export_graphs
from ztw_rl.core.backends.onnx_file import one_graph
from ztw_rl.core.backends.sessions import interface
from ztw_rl.core.choice import Point
from ztw_rl.core.files import write_atomically
from ztw_rl.core.model import EarlyExitModel


def export_onnx(
    path: Path,
    model: EarlyExitModel,
    x: Tensor,
    thresholds: Sequence[float],
    metadata: Mapping[str, Any],
) -> None:
    """Write a model as one ONNX file, atomically; see ``backends.onnx_file``.

    Args:
        path: The file.
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        thresholds: E−1, finite: what is proposed to whoever runs it.
        metadata: Anything JSON; ``answer`` is what its answer is called.

    Raises:
        UserError: A package is missing.
    """
    described = {**metadata, **_described(deploy.ONE_FILE, model, x, thresholds)}
    graph = one_graph(model, x, metadata["answer"], described)
    write_atomically(path, lambda temporary: temporary.write_bytes(graph))


def export_litert(
    path: Path,
    model: EarlyExitModel,
    x: Tensor,
    thresholds: Sequence[float],
    metadata: Mapping[str, Any],
    weights: deploy.Weights = "float32",
) -> None:
    """Write a model as one LiteRT file, atomically; see ``backends.litert``.

    Args:
        path: The file.
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        thresholds: E−1, finite: what is proposed to whoever runs it.
        metadata: Anything JSON; ``answer`` is what its answer is called.
        weights: Of wide layers.

    Raises:
        UserError: A package is missing, or LiteRT cannot express a layer.
    """
    described = {**metadata, **_described(deploy.LITERT, model, x, thresholds)}
    content = one_file(model, x, metadata["answer"], described, weights)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def export_stages(
    path: Path,
    model: EarlyExitModel,
    x: Tensor,
    thresholds: Sequence[float],
    metadata: Mapping[str, Any],
) -> None:
    """Write a model as one zip, atomically: an ONNX graph per exit, and ``metadata.json``.

    Args:
        path: The file.
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        thresholds: E−1, finite: what applies if the caller gives none.
        metadata: Anything JSON, such as ``labels``.

    Raises:
        UserError: A package is missing.
    """
    graphs = export_graphs(model, x).exits
    files = {deploy.graph_file(m): graph for m, graph in enumerate(graphs)}
    _write(path, files, {**metadata, **_described(deploy.STAGES, model, x, thresholds)})


def export_aoti(
    path: Path,
    model: EarlyExitModel,
    x: Tensor,
    thresholds: Sequence[float],
    metadata: Mapping[str, Any],
) -> None:
    """Write a model as one zip, atomically: a compiled segment per exit, and ``metadata.json``.

    The code is this processor's, for the same version of PyTorch; ``backends.aoti.load`` runs it.

    Args:
        path: The file.
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        thresholds: E−1, finite: what applies if the caller gives none.
        metadata: Anything JSON, such as ``labels``.

    Raises:
        UserError: There is no C++ compiler, or PyTorch is too old.
    """
    packages = aoti.compile_segments(model, x)
    files = {aoti.package_file(m): package for m, package in enumerate(packages)}
    described = _described(aoti.KIND, model, x, thresholds) | {"torch": aoti.torch_version()}
    _write(path, files, {**metadata, **described})


def _described(
    kind: str, model: EarlyExitModel, x: Tensor, thresholds: Sequence[float]
) -> dict[str, Any]:
    return {
        **interface(model, x),
        "format": deploy.FORMAT,
        "kind": kind,
        "thresholds": list(thresholds),
    }


def _write(path: Path, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> None:
    def write(temporary: Path) -> None:
        # Weights hardly compress; stored, the file is read faster.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps(metadata, indent=2, allow_nan=False)
            archive.writestr(deploy.METADATA_FILE, text)
            for name, content in files.items():
                archive.writestr(name, content)

    write_atomically(path, write)


Writer = Callable[[Path, EarlyExitModel, Tensor, Sequence[float], Mapping[str, Any]], None]
_WRITERS: dict[deploy.Format, Writer] = {
    "onnx": export_onnx,
    "onnx-stages": export_stages,
    "aoti": export_aoti,
}


DeployableT = TypeVar("DeployableT", bound="Deployable")


class Deployable(Protocol):
    """A trained early-exit model and what is known of it."""

    @property
    def model(self) -> EarlyExitModel:
        """In eval mode, on the CPU."""
        ...

    def example(self) -> Tensor:
        """(1, …), any input of the right shape and type."""
        ...

    def at(self: DeployableT, point: Point) -> DeployableT:
        """The same with exits judged as the point's rule needs it.

        Raises:
            UserError: It has no gates for that.
        """
        ...

    def relative_macs(self) -> tuple[float, ...]:
        """(E,) operations up to each exit, over those of the full network."""
        ...

    def metadata(self) -> dict[str, Any]:
        """What an exported file says of it: ``labels``, ``exits`` and the like; anything JSON.

        ``answer`` is what its answers are called, ``action`` or ``label``.
        """
        ...


def export(
    path: Path,
    deployable: Deployable,
    kind: deploy.Format,
    point: Point,
    about: Mapping[str, Any],
    weights: deploy.Weights = "float32",
) -> None:
    """Write a model as one file, atomically.

    Args:
        path: The file.
        deployable: The model.
        kind: Its format.
        point: What applies if the caller gives no threshold.
        about: Further metadata, such as ``name``.
        weights: Of wide layers; int8 is LiteRT's.

    Raises:
        UserError: A package or the compiler is missing, something else is there, or the format has
            no such weights.
    """
    deploy.check_replaceable(path)
    deploy.check_weights(kind, weights)
    deployable = deployable.at(point)
    model, x = deployable.model, deployable.example()
    thresholds = point.each(model.n_exits - 1)
    metadata = {**about, **deployable.metadata()}
    if kind == "litert":
        export_litert(path, model, x, thresholds, metadata, weights)
        return
    _WRITERS[kind](path, model, x, thresholds, metadata)
