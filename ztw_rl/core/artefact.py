"""Writes what ``ztw_rl.deploy`` runs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ztw_rl import deploy
from ztw_rl.core.backends.onnx import export_graphs, interface
from ztw_rl.core.checkpoint import write_atomically
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
    described = {
        **metadata,
        **interface(model, x),
        "format": deploy.FORMAT,
        "kind": "onnx",
        "thresholds": list(thresholds),
    }

    def write(temporary: Path) -> None:
        # Weights hardly compress; stored, the file is read faster.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            text = json.dumps(described, indent=2, allow_nan=False)
            archive.writestr(deploy.METADATA_FILE, text)
            for m, graph in enumerate(graphs):
                archive.writestr(deploy.graph_file(m), graph)

    write_atomically(path, write)
