"""What a network says of one augmented pass over its training images, for what is fitted last."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ztw_rl.console import StopRequest
from ztw_rl.core.gates import halved
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.supervised.data.source import Source

GATE_BYTES = 4 * 2**30
"""Of what gates learn from: some 80,000 images through a ResNet-56."""


@dataclass(frozen=True)
class Cache:
    """What is known of N images, in the main memory."""

    log_probs: Tensor
    """(N, E, C) of each exit alone."""
    labels: Tensor | None
    """(N,), if there are any."""
    pooled: tuple[Tensor, ...]
    """E−1 of (n, D_m) halves, the pooled features of the first n images, if there are gates."""

    @property
    def targets(self) -> Tensor:
        """(N,) labels, or without any (N, C), what the network itself says."""
        return self.log_probs[:, -1] if self.labels is None else self.labels


def fill(
    model: EarlyExitModel, source: Source, batch_size: int, seed: int, stop: StopRequest
) -> Cache | None:
    """Run the whole network once; ImageNet's answers are 31 GB, so there is one copy of them.

    Args:
        model: In eval mode, on the source's device.
        source: Training images.
        batch_size: Images at once.
        seed: Of order and augmentation.
        stop: The user's wish.

    Returns:
        None if the user stops it.
    """
    n_images, n_exits, n_classes = len(source), model.n_exits, source.n_classes
    answers = torch.empty(n_images, n_exits, n_classes)
    labels = torch.empty(n_images, dtype=torch.int64)
    pooled: list[Tensor] = []
    done = n_pooled = 0
    for batch in source.epoch(batch_size, seed):
        if stop.requested:
            return None
        part = slice(done, done + len(batch.images))
        with torch.inference_mode():
            seen, logits = said(model, batch.images)
            answers[part] = torch.log_softmax(logits, dim=-1)
        if model.gates and not pooled:
            # Answers count twice, alone and ensembled.
            per_image = 2 * sum(each.shape[1] for each in seen) + 8 * n_exits * n_classes
            n_pooled = min(n_images, GATE_BYTES // per_image)
            pooled = [torch.empty(n_pooled, each.shape[1], dtype=torch.float16) for each in seen]
        for kept, each in zip(pooled, seen, strict=False):
            kept[part] = halved(each[: max(0, n_pooled - done)])
        if batch.labels is not None:
            labels[part] = batch.labels
        done = part.stop
    return Cache(answers, labels if source.labelled else None, tuple(pooled))


def said(model: EarlyExitModel, images: Tensor) -> tuple[list[Tensor], Tensor]:
    """What all exits say, and what their gates read, if there are any.

    Args:
        model: In eval mode.
        images: (B, …).

    Returns:
        E−1 of (B, D_m) pooled features, none without gates; and (B, E, C) logits of each exit
        alone.
    """
    pooled, logits = [], []
    # One by one: large features are not kept.
    for found in model.exits(images):
        logits.append(found.logits.float())
        if model.gates and len(logits) < model.n_exits:
            pooled.append(found.pooled)
    return pooled, torch.stack(logits, dim=1)
