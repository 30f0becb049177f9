from __future__ import annotations

import numpy as np
import pytest
import torch

from ztw_rl.core.inputs import as_batch
from ztw_rl.errors import UserError

SHAPE = (4, 6, 5)


def as_frames(x):
    return as_batch(x, SHAPE, torch.uint8)


@pytest.mark.parametrize("kind", [lambda x: x, torch.from_numpy, lambda x: x.tolist()])
def test_one_or_a_batch_with_channels_first_or_last(kind):
    x = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
    if kind(x) is not x and isinstance(kind(x), list):
        # Lists have no type of their own.
        batch, _ = as_batch(kind(x), SHAPE, torch.int64)
        assert batch.tolist() == x.tolist()
        return
    for given, single, wanted in (
        (x, False, x),
        (x[1], True, x[1:2]),
        (x.transpose(0, 2, 3, 1).copy(), False, x),
        (x[1].transpose(1, 2, 0).copy(), True, x[1:2]),
        (x[:0], False, x[:0]),
    ):
        batch, is_single = as_frames(kind(given))
        assert is_single == single
        assert batch.is_contiguous()
        np.testing.assert_array_equal(batch.numpy(), wanted)


def test_memory_that_torch_does_not_take():
    x = np.zeros(SHAPE, np.uint8)
    x.flags.writeable = False
    assert as_frames(x)[0].shape == (1, *SHAPE)
    other = np.arange(3).astype(">f4")
    assert as_batch(other, (3,), torch.float32)[0].tolist() == [[0, 1, 2]]


def test_vectors_have_one_layout():
    batch, single = as_batch(np.zeros(3, np.float32), (3,), torch.float32)
    assert (tuple(batch.shape), single) == ((1, 3), True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(SHAPE), r"is float64 \(4, 6, 5\), but the model takes uint8 \(4, 6, 5\) or"),
        (np.zeros((3, 6, 5), np.uint8), r"is uint8 \(3, 6, 5\), but .* or \(6, 5, 4\), one or a"),
        (np.zeros((6, 5), np.uint8), r"is uint8 \(6, 5\), but"),
        ({"pixels": 1}, "not a dictionary"),
        ([[1], [2, 3]], "is no array of numbers"),
        (np.array(["a"]), "is no array of numbers"),
        (3, r"is int64 \(\), but"),
    ],
)
def test_what_does_not_fit_is_named(x, message):
    with pytest.raises(UserError, match=message):
        as_frames(x)
