"""``ztw-rl export``: an agent as one file that runs without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ztw_rl import agents, deploy, runs
from ztw_rl.commands._arguments import read
from ztw_rl.points.policy import OperatingPoint, choose
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


@dataclass(frozen=True)
class Export:
    """Write an agent as one file: frames (uint8) in; action, exit and confidence out.

    onnx runs anywhere with numpy and ONNX Runtime alone: ztw_rl.deploy. aoti is machine code of
    this processor, for this version of PyTorch: ztw_rl.core.backends.aoti; it needs a C++ compiler.
    """

    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    format: Format = "onnx"
    """A zip with metadata.json and, per exit, an ONNX graph or code compiled by AOTInductor."""
    output: Path | None = None
    """The file; by default <game>.zip, or such as pong-input.zip, in the current folder. It is
    replaced if it is there."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    point: tyro.conf.OmitArgPrefixes[OperatingPoint] = field(default_factory=OperatingPoint)
    """The threshold that the file proposes; whoever runs it may pass another."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl export --help``.

    Returns:
        0.

    Raises:
        UserError: The command line or the agent has an error, or a package is missing.
    """
    args = read(Export, arguments, "ztw-rl export")
    folder = agents.find(args.agent, args.runs_dir)

    from ztw_rl.rl.agent import load_agent

    agent = load_agent(folder)
    game = agent.config.environment.name
    name = agents.file_stem(folder) or game
    output = args.output or Path(f"{name}.zip")
    runs.check_writable_file(output)
    deploy.check_replaceable(output)
    choice = choose(args.point, agent, folder, args.runs_dir)
    print(f"agent: {folder}")
    write_artefact(args.format, output, agent, name, choice)
    return 0
