"""What a classifier says of its data set's images."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ztw_rl.supervised.classifier import Classifier
    from ztw_rl.supervised.config import DataConfig
    from ztw_rl.supervised.data.datasets import Split
    from ztw_rl.supervised.evaluate import Answers


def data_of(classifier: Classifier, data_path: str | None, n_test: int | None) -> DataConfig:
    """The images that a classifier is measured on.

    Args:
        classifier: Whose data they are.
        data_path: Where the images are, if not where they were at training.
        n_test: Use only this many test images, if not as many as at training.
    """
    data = classifier.config.run.data
    if n_test is None:
        n_test = data.n_test
    return replace(data, data_path=data_path or data.data_path, n_test=n_test)


def collect_answers(
    classifier: Classifier,
    path: Path,
    data: DataConfig,
    split: Split,
    device: torch.device,
    batch_size: int = 256,
) -> Answers:
    """One pass over a split, with a progress bar.

    Args:
        classifier: Its model is left on ``device``.
        path: What the bar calls it.
        data: From ``data_of``.
        split: Which images.
        device: Where it runs.
        batch_size: Images at once.

    Raises:
        UserError: Images are missing or unreadable.
    """
    from rich.progress import Progress

    from ztw_rl.supervised.data.opening import open_source
    from ztw_rl.supervised.evaluate import collect

    source = open_source(data, split, device)
    with Progress(transient=True) as progress:
        task = progress.add_task(f"{path.name}, {split}", total=len(source))
        advance = functools.partial(progress.advance, task)
        return collect(classifier.model.to(device), source, batch_size, advance)
