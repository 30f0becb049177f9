"""``ztw-rl export``: an agent as one file that runs without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from ztw_rl import agents, deploy, runs
from ztw_rl.commands._arguments import read
from ztw_rl.points.policy import OperatingPoint, choose
from ztw_rl.points.targets import Proposal
from ztw_rl.settings import Seed

if TYPE_CHECKING:
    from ztw_rl.core.deployable import Deployable
    from ztw_rl.rl.rounding import Rounded


def target_of(
    output: Path | None, wanted: deploy.Format | None, name: str
) -> tuple[Path, deploy.Format]:
    """The file, which can be written, and its format.

    Args:
        output: What was asked for.
        wanted: So too.
        name: What the file is called by default.

    Raises:
        UserError: It cannot be written, the two contradict each other, or neither tells the format.
    """
    path = output or Path(name + deploy.SUFFIXES[wanted or "onnx"])
    runs.check_writable_file(path)
    kind = deploy.format_of(path, wanted)
    deploy.check_replaceable(path)
    return path, kind


def write_artefact(
    kind: deploy.Format,
    path: Path,
    deployable: Deployable,
    name: str,
    proposal: Proposal,
    rounded: Rounded | None = None,
) -> None:
    """Write a model as one file, and say how to run it.

    Args:
        kind: What runs it.
        path: The file.
        deployable: The agent or the classifier.
        name: What the file calls it.
        proposal: What applies if the caller of the artefact gives no threshold.
        rounded: Weights of eight bits, and what is known of them.

    Raises:
        UserError: A package or the compiler is missing.
    """
    from ztw_rl.core.deployable import export

    about: dict[str, Any] = {"name": name}
    if proposal.record is not None:
        about["threshold_chosen_for"] = proposal.record
    replaced = ", in place of what was there" if path.exists() else ""
    weights: deploy.Weights = "float32"
    if rounded is not None:
        weights = "int8"
        about |= {"weights": weights, "weights_checked": asdict(rounded)}
    export(path, deployable, kind, proposal.point, about, weights)
    size = path.stat().st_size / 2**20
    print(f"{path}: {size:.1f} MiB, {deployable.model.n_exits} exits, {proposal}{replaced}")
    for line in proposal.reasons:
        print(line)
    if rounded is not None:
        print(rounded)
    x = deployable.example()
    shape = ", ".join(map(str, x.shape[1:]))
    dtype = str(x.dtype).removeprefix("torch.")
    runner = "ztw_rl.core.backends.aoti" if kind == "aoti" else "ztw_rl.deploy"
    print(f"run it with: {runner}.load('{path}').predict(x) for {dtype} x of shape (B, {shape})")


@dataclass(frozen=True)
class Export:
    """Write an agent as one file: frames (uint8) in; action, exit and confidence out.

    ONNX Runtime or LiteRT alone runs it, from any language. aoti is machine code of this processor,
    for this version of PyTorch: ztw_rl.core.backends.aoti; it needs a C++ compiler.
    """

    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    format: deploy.Format | None = None
    """onnx: one file, one observation at a time. onnx-stages: a zip of one graph for each exit,
    which ztw_rl.deploy runs, batches too. litert: one file for both, the fastest on one
    observation; it needs the extra litert. aoti: a zip of code for each exit. By default what
    --output ends in: .onnx, .tflite, or .zip for onnx-stages."""
    weights: deploy.Weights = "float32"
    """int8: of wide layers, where reading them is what takes the time. For the format litert, if
    the agent's own games show that it would do the same."""
    output: Path | None = None
    """The file; by default <game>.onnx, or such as pong-input.onnx, in the current folder. It is
    replaced if it is there."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    point: tyro.conf.OmitArgPrefixes[OperatingPoint] = field(default_factory=OperatingPoint)
    """The threshold that the file proposes; whoever runs it may pass another."""
    seed: Seed = 0
    """Of the games that int8 weights are tried in."""


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
    from ztw_rl.rl.rounding import rounded_weights

    agent = load_agent(folder)
    game = agent.config.environment.name
    name = agents.file_stem(folder) or game
    output, kind = target_of(args.output, args.format, name)
    deploy.check_weights(kind, args.weights)
    choice = choose(args.point, agent, folder, args.runs_dir)
    print(f"agent: {folder}")
    rounded = rounded_weights(agent, choice.point, args.seed) if args.weights == "int8" else None
    write_artefact(kind, output, agent, name, choice, rounded)
    return 0
