"""``ztw-rl supervised bench``: how long a classifier's answers take, by backend and batch size."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ztw_rl import runs
from ztw_rl.commands._arguments import read
from ztw_rl.commands.bench import KIND, BenchSettings, measure, report
from ztw_rl.commands.supervised._shared import newest_classifier
from ztw_rl.points.classifier import ClassifierPoint, choose

if TYPE_CHECKING:
    from torch import Tensor

    from ztw_rl.core.runtime import Runtime

PROG = "ztw-rl supervised bench"
N_IMAGES = 512
"""Test images that decide the mix, if a batch is no larger."""


@dataclass(frozen=True)
class Bench(BenchSettings):
    """Time a classifier's answers: the backbone, each forced exit, none, and its own mix.

    Writes bench.csv and bench.png. All cases of a backend are timed in turns, on test images.
    """

    model: Path | None = None
    """A run of train-ics, or its classifier folder; by default the newest run."""
    point: tyro.conf.OmitArgPrefixes[ClassifierPoint] = field(default_factory=ClassifierPoint)
    """The threshold of the mix."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl supervised bench --help``.

    Returns:
        0.

    Raises:
        UserError: The command line, the classifier or the data has an error, or a package is
            missing.
    """
    args = read(Bench, arguments, PROG)
    runs.check_writable(args.output or args.runs_dir / KIND)
    path = args.model or newest_classifier(args.runs_dir)

    import torch

    from ztw_rl.supervised.classifier import load_classifier
    from ztw_rl.supervised.data.datasets import open_source
    from ztw_rl.supervised.evaluate import data_of

    classifier = load_classifier(path)
    run = classifier.config.run
    choice = choose(args.point, classifier, path)
    wanted = max(N_IMAGES, *args.batch_sizes)
    data = data_of(classifier, args.point.data_path, args.point.n_test or wanted)
    source = open_source(data, "test", torch.device("cpu"))

    def images(runtime: Runtime) -> Tensor:
        return torch.cat([batch.images for batch in source.plain(wanted)])

    groups = measure(args, classifier, choice, images)
    report(args, groups, run.title, choice, path)
    return 0
