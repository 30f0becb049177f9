"""A user's own batches as a ``Source``: a DataLoader, a list, or any other iterable of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized

import torch
from torch import Tensor

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.source import WHOLE, Batch, Shard, mix_seeds

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


class LoaderSource:
    """Batches of inputs and labels, or of inputs alone, in the loader's own order and sizes.

    Before each batch torch's global generator is seeded with the pass's seed and the batch's
    number. So the chance of a ``DataLoader`` that has no generator of its own is the same again
    when a run goes on.

    Args:
        loader: Gives (inputs, labels), (inputs, None) or inputs, each time that it is iterated.
        example: (1, …), any input of the right shape and type, on the device where batches are
            wanted.
        n_classes: C; labels are 0 … C−1.

    Raises:
        UserError: It is no iterable of batches.
    """

    def __init__(self, loader: Iterable[object], example: Tensor, n_classes: int) -> None:
        if isinstance(loader, Tensor) or not isinstance(loader, Iterable):
            raise UserError(
                f"the loader is {_kind(loader)}, expected batches: a DataLoader, or a list such as "
                "[(inputs, labels), ...]"
            )
        self.n_classes = n_classes
        self._loader = loader
        self._shape = tuple(example.shape[1:])
        self._dtype, self._device = example.dtype, example.device
        self._labelled: bool | None = None
        self._n_batches: int | None = None
        self._n: int | None = None

    @property
    def labelled(self) -> bool:
        """See ``Source``: as the first batch is."""
        if self._labelled is None:
            next(self._batches(0))
        assert self._labelled is not None
        return self._labelled

    def __len__(self) -> int:
        """Number of inputs; if no pass has ended yet, one is made."""
        if self._n is None:
            for _ in self._batches(0):
                pass
        assert self._n is not None
        return self._n

    def n_batches(self, batch_size: int) -> int:
        """See ``Source``: what the loader says, or what it is found to give."""
        if self._n_batches is None and isinstance(self._loader, Sized):
            # A DataLoader of a stream has a length that nobody knows.
            try:
                self._n_batches = len(self._loader)
            except TypeError:
                len(self)
        elif self._n_batches is None:
            len(self)
        assert self._n_batches is not None
        return self._n_batches

    def epoch(
        self, batch_size: int, seed: int, shard: Shard = WHOLE, skip: int = 0
    ) -> Iterator[Batch]:
        """See ``Source``: order, augmentation and size of the batches are the loader's."""
        mine = slice(shard.rank, None, shard.world)
        for number, batch in enumerate(self._batches(seed)):
            if number >= skip:
                labels = None if batch.labels is None else batch.labels[mine]
                yield self._moved(Batch(batch.images[mine], labels, batch.size))

    def plain(self, batch_size: int) -> Iterator[Batch]:
        """See ``Source``: one pass as the loader gives it."""
        yield from map(self._moved, self._batches(0))

    def _moved(self, batch: Batch) -> Batch:
        labels = None if batch.labels is None else batch.labels.to(self._device)
        return batch._replace(images=batch.images.to(self._device), labels=labels)

    def _batches(self, seed: int) -> Iterator[Batch]:
        """One pass, where the loader's batches are, each checked."""
        torch.manual_seed(mix_seeds(seed, 0))
        number = n = 0
        for number, found in enumerate(self._loader, start=1):
            batch = self._checked(found, f"batch {number - 1} of the loader")
            n += batch.size
            yield batch
            torch.manual_seed(mix_seeds(seed, number))
        if not n:
            raise UserError("the loader gives no batches")
        if self._n_batches not in (None, number):
            raise UserError(
                f"the loader gives {number} batches, but {self._n_batches} were expected; it must "
                "give as many in each pass, and as many as its length says"
            )
        self._n_batches, self._n = number, n

    def _checked(self, found: object, name: str) -> Batch:
        """A batch as the loader gave it.

        Raises:
            UserError: It is something else.
        """
        inputs, labels = _parts(found, name)
        if inputs.dtype != self._dtype or tuple(inputs.shape[1:]) != self._shape or not len(inputs):
            wanted = ", ".join(map(str, self._shape))
            raise UserError(
                f"{name} has inputs {_kind(inputs)}, expected {_name(self._dtype)} (B, {wanted}), "
                "as the example is"
            )
        if self._labelled not in (None, labels is not None):
            raise UserError(
                f"{name} has {'no labels' if self._labelled else 'labels'}, unlike the first batch"
            )
        self._labelled = labels is not None
        if labels is None:
            return Batch(inputs, None, len(inputs))
        if labels.dtype not in INTEGERS or labels.shape != inputs.shape[:1]:
            raise UserError(
                f"{name} has labels {_kind(labels)}, expected whole numbers ({len(inputs)},)"
            )
        labels = labels.long()
        wrong = labels[(labels < 0) | (labels >= self.n_classes)]
        if len(wrong):
            raise UserError(
                f"{name} has the label {int(wrong[0])}, but the network tells {self.n_classes} "
                f"classes apart: 0 to {self.n_classes - 1}"
            )
        return Batch(inputs, labels, len(inputs))


def check_repeatable(loader: object) -> None:
    """Find out whether a loader can be read more than once.

    Raises:
        UserError: It is a generator or another iterator.
    """
    if isinstance(loader, Iterator):
        raise UserError(
            f"the loader is {_kind(loader)}, which gives its batches once, but fitting reads them "
            "again and again; give list(loader), or a DataLoader"
        )


def _parts(found: object, name: str) -> tuple[Tensor, Tensor | None]:
    """Inputs, and labels if there are any."""
    parts = tuple(found) if isinstance(found, list | tuple) else (found,)
    inputs, labels = (*parts, None)[:2] if len(parts) in (1, 2) else (None, None)
    if not isinstance(inputs, Tensor) or not (labels is None or isinstance(labels, Tensor)):
        shown = ", ".join(_kind(part) for part in parts[:3])
        what = f"({shown}{', ...' if len(parts) > 3 else ''})" if len(parts) != 1 else shown
        raise UserError(
            f"{name} is {what}, expected a tensor of inputs, or a tensor of inputs and one of "
            "labels"
        )
    return inputs, labels


def _kind(found: object) -> str:
    """What something is, in a few words."""
    if isinstance(found, Tensor):
        return f"{_name(found.dtype)} {tuple(found.shape)}"
    return "None" if found is None else f"of type {type(found).__name__}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
