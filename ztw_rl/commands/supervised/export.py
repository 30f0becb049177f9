"""``ztw-rl supervised export``: an early-exit classifier as one file that runs without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro

from ztw_rl import deploy
from ztw_rl.commands._arguments import read
from ztw_rl.commands.export import target_of, write_artefact
from ztw_rl.commands.supervised._shared import newest_classifier
from ztw_rl.points.classifier import ClassifierPoint, choose

PROG = "ztw-rl supervised export"


@dataclass(frozen=True)
class Export:
    """Write a classifier as one file: RGB pixels (uint8) in; label, exit and confidence out.

    Normalisation is inside. ONNX Runtime or LiteRT alone runs it, from any language. aoti is
    machine code of this processor, for this version of PyTorch: ztw_rl.core.backends.aoti; it needs
    a C++ compiler, and ten seconds or more per exit.
    """

    model: Path | None = None
    """A run of train-ics, or its classifier folder; by default the newest run."""
    format: deploy.Format | None = None
    """onnx: one file, one image at a time. onnx-stages: a zip of one graph for each exit, which
    ztw_rl.deploy runs, batches too. litert: one file for both; it needs the extra litert. aoti: a
    zip of code for each exit. By default what --output ends in: .onnx, .tflite, or .zip for
    onnx-stages."""
    output: Path | None = None
    """The file; by default <network>-<data>.onnx in the current folder."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    point: tyro.conf.OmitArgPrefixes[ClassifierPoint] = field(default_factory=ClassifierPoint)
    """The threshold that the file proposes; whoever runs it may pass another."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl supervised export --help``.

    Returns:
        0.

    Raises:
        UserError: The command line, the classifier or the data has an error, or a package is
            missing.
    """
    args = read(Export, arguments, PROG)
    path = args.model or newest_classifier(args.runs_dir)

    from ztw_rl.supervised.classifier import load_classifier

    classifier = load_classifier(path)
    run = classifier.config.run
    name = run.title
    output, kind = target_of(args.output, args.format, name)
    choice = choose(args.point, classifier, path)
    write_artefact(kind, output, classifier, name, choice)
    return 0
