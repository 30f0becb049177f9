"""What exporting a policy and exporting a classifier share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl.points.targets import Proposal

if TYPE_CHECKING:
    from ztw_rl.core.deployable import Deployable

Format = Literal["onnx", "aoti"]
RUNNERS: dict[Format, str] = {"onnx": "ztw_rl.deploy", "aoti": "ztw_rl.core.backends.aoti"}


def write_artefact(
    kind: Format, path: Path, deployable: Deployable, name: str, proposal: Proposal
) -> None:
    """Write a model as one file, and say how to run it.

    Args:
        kind: What runs it.
        path: The file.
        deployable: The agent or the classifier.
        name: What the file calls it.
        proposal: What applies if the caller of the artefact gives no threshold.

    Raises:
        UserError: A package or the compiler is missing.
    """
    from ztw_rl.core.deployable import export

    about: dict[str, Any] = {"name": name}
    if proposal.record is not None:
        about["threshold_chosen_for"] = proposal.record
    replaced = ", in place of what was there" if path.exists() else ""
    export(path, deployable, kind, proposal.point, about)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MiB, {deployable.model.n_exits} exits, {proposal}{replaced}")
    for line in proposal.reasons:
        print(line)
    x = deployable.example()
    shape = ", ".join(map(str, x.shape[1:]))
    dtype = str(x.dtype).removeprefix("torch.")
    runner = RUNNERS[kind]
    print(f"run it with: {runner}.load('{path}').predict(x) for {dtype} x of shape (B, {shape})")
