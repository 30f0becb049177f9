"""Writes what runs without the model: with ``ztw_rl.deploy``, or ``core.backends.aoti``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ztw_rl import deploy
from ztw_rl.core.backends import aoti
from ztw_rl.core.backends.onnx import export_graphs, interface
from ztw_rl.core.files import write_atomically
from ztw_rl.core.model import EarlyExitModel


def export_onnx(
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
    _write(path, files, {**metadata, **_described("onnx", model, x, thresholds)})


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
