"""``ztw-rl export``: an agent as one file that runs without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from ztw_rl import agents, runs
from ztw_rl.commands._operating_point import OperatingPoint, choose


@dataclass(frozen=True)
class Export:
    """Write an agent as one file: frames (uint8) in; action, exit and confidence out.

    ztw_rl.deploy runs the file with numpy and ONNX Runtime alone.
    """

    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    format: Literal["onnx"] = "onnx"
    """onnx: one ONNX graph per exit and metadata.json, in a zip."""
    output: Path | None = None
    """The file; by default <game>.zip in the current folder."""
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
    args = tyro.cli(Export, args=arguments, prog="ztw-rl export")
    folder = agents.find(args.agent, args.runs_dir)

    from ztw_rl.atari.agent import load_agent
    from ztw_rl.atari.games import action_names, canonical
    from ztw_rl.core.artefact import export_onnx

    agent = load_agent(folder)
    game = canonical(agent.config.atari.game)
    output = args.output or Path(f"{game}.zip")
    runs.check_writable(output.parent)
    threshold = choose(args.point, folder, game, args.runs_dir)
    x = agent.example()
    metadata: dict[str, Any] = {
        "name": game,
        "method": agent.config.method,
        "labels": action_names(agent.config.atari.game),
        "exits": [*agent.config.exits, "policy"],
        "relative_macs": agent.relative_macs(),
    }
    export_onnx(output, agent.model, x, [threshold] * (agent.model.n_exits - 1), metadata)
    size = output.stat().st_size / 2**20
    print(f"{output}: {size:.1f} MiB, {agent.model.n_exits} exits, threshold {threshold:g}")
    print(f"run it with: ztw_rl.deploy.load('{output}').predict(frames)")
    return 0
