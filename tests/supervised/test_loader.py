from __future__ import annotations

import re

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ztw_rl.errors import UserError
from ztw_rl.supervised.data.loader import LoaderSource, check_repeatable
from ztw_rl.supervised.data.source import Shard

X = torch.arange(20.0).view(10, 2)
LABELS = torch.arange(10) % 3


def source(loader) -> LoaderSource:
    return LoaderSource(loader, X[:1], 3)


def numbers(batches) -> list[list[float]]:
    return [batch.images[:, 0].tolist() for batch in batches]


class Stream(IterableDataset):
    """Inputs one by one, without a length."""

    def __iter__(self):
        return iter(zip(X, LABELS, strict=True))


@pytest.mark.parametrize(
    "loader",
    [
        [(X[:4], LABELS[:4]), (X[4:8], LABELS[4:8]), (X[8:], LABELS[8:])],
        DataLoader(TensorDataset(X, LABELS), 4),
        DataLoader(Stream(), 4),
    ],
    ids=["list", "data loader", "stream"],
)
def test_batches_as_the_loader_has_them(loader):
    found = source(loader)
    assert found.labelled
    assert (found.n_batches(7), len(found), found.n_classes) == (3, 10, 3)
    whole = list(found.epoch(7, seed=0))
    assert [batch.size for batch in whole] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.images for batch in whole]), X)
    assert torch.equal(torch.cat([batch.truth for batch in whole]), LABELS)
    assert numbers(found.epoch(7, seed=0, skip=2)) == [[16, 18]]
    (half, *_) = found.epoch(7, seed=0, shard=Shard(1, 2))
    assert half.images[:, 0].tolist() == [2, 6]
    assert (half.truth.tolist(), half.size) == ([1, 0], 4)
    assert numbers(found.plain(7)) == numbers(whole)


def test_a_shuffled_pass_is_a_function_of_its_seed():
    found = source(DataLoader(TensorDataset(X, LABELS), 4, shuffle=True))
    whole = numbers(found.epoch(4, seed=1))
    assert whole != numbers(found.epoch(4, seed=2))
    torch.manual_seed(5)
    assert numbers(found.epoch(4, seed=1, skip=1)) == whole[1:]


def test_labels_of_any_whole_numbers_and_none_at_all():
    (batch,) = source([(X, LABELS.to(torch.uint8))]).plain(4)
    assert batch.truth.dtype == torch.int64
    for loader in ([X], [(X,)], [(X, None)], DataLoader(TensorDataset(X), 10)):
        found = source(loader)
        assert not found.labelled
        (batch,) = found.plain(4)
        assert torch.equal(batch.images, X)
        with pytest.raises(ValueError, match="no labels"):
            _ = batch.truth


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (X, "the loader is float32 (10, 2), expected batches: a DataLoader, or a list"),
        (7, "the loader is of type int, expected batches"),
        ([], "the loader gives no batches"),
        (["cat"], "batch 0 of the loader is of type str, expected a tensor of inputs"),
        ([{"x": X}], "batch 0 of the loader is of type dict, expected a tensor of inputs"),
        ([(X, LABELS, LABELS)], "batch 0 of the loader is (float32 (10, 2), int64 (10,), int64"),
        (
            [X, (X, [1])],
            "batch 1 of the loader is (float32 (10, 2), of type list), expected a tensor",
        ),
        (
            [X, X[:, :1]],
            "batch 1 of the loader has inputs float32 (10, 1), expected float32 (B, 2), as the",
        ),
        ([X.double()], "batch 0 of the loader has inputs float64 (10, 2), expected float32 (B, 2)"),
        ([X[:0]], "batch 0 of the loader has inputs float32 (0, 2)"),
        ([(X, LABELS[:4])], "has labels int64 (4,), expected whole numbers (10,)"),
        ([(X, LABELS.float())], "has labels float32 (10,), expected whole numbers (10,)"),
        ([(X, LABELS + 1)], "has the label 3, but the network tells 3 classes apart: 0 to 2"),
        ([(X, LABELS - 1)], "has the label -1, but the network tells 3 classes apart: 0 to 2"),
        ([X, (X, LABELS)], "batch 1 of the loader has labels, unlike the first batch"),
        ([(X, LABELS), X], "batch 1 of the loader has no labels, unlike the first batch"),
    ],
)
def test_what_is_no_batch(loader, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        len(source(loader))
    assert "\n" not in str(caught.value)


def test_a_length_that_is_wrong():
    class Short(list):
        def __len__(self):
            return 3

    found = source(Short([X, X]))
    assert found.n_batches(4) == 3
    with pytest.raises(UserError, match="gives 2 batches, but 3 were expected"):
        list(found.epoch(4, seed=0))


def test_what_can_be_read_once():
    check_repeatable([X])
    check_repeatable(DataLoader(TensorDataset(X), 10))
    with pytest.raises(
        UserError, match=r"of type generator, which gives its batches once.*list\(loader"
    ):
        check_repeatable(part for part in [X])
