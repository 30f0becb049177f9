"""What exporting a policy and exporting a classifier share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl.commands._targets import Proposal

if TYPE_CHECKING:
    from torch import Tensor

    from ztw_rl.core.model import EarlyExitModel

Format = Literal["onnx", "aoti"]


def write_artefact(
    kind: Format,
    path: Path,
    model: EarlyExitModel,
    x: Tensor,
    proposal: Proposal,
    metadata: Mapping[str, Any],
) -> None:
    """Write a model as one file, and say how to run it.

    Args:
        kind: What runs it.
        path: The file.
        model: In eval mode, on the CPU.
        x: (1, …), any input of the right shape and type.
        proposal: What applies if the caller of the artefact gives no threshold.
        metadata: Anything JSON, such as ``labels``.

    Raises:
        UserError: A package or the compiler is missing.
    """
    from ztw_rl.core.artefact import export_aoti, export_onnx

    if proposal.record is not None:
        metadata = {**metadata, "threshold_chosen_for": proposal.record}
    write, runner = {
        "onnx": (export_onnx, "ztw_rl.deploy"),
        "aoti": (export_aoti, "ztw_rl.core.backends.aoti"),
    }[kind]
    write(path, model, x, proposal.each(model.n_exits - 1), metadata)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MiB, {model.n_exits} exits, {proposal}")
    for line in proposal.reasons:
        print(line)
    shape = ", ".join(map(str, x.shape[1:]))
    dtype = str(x.dtype).removeprefix("torch.")
    print(f"run it with: {runner}.load('{path}').predict(x) for {dtype} x of shape (B, {shape})")
