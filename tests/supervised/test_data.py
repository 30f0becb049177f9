from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ztw_rl.errors import UserError
from ztw_rl.supervised.config import DataConfig
from ztw_rl.supervised.data import source
from ztw_rl.supervised.data.datasets import TRANSPORT, class_names, list_images, open_source
from ztw_rl.supervised.data.source import Shard, crop_and_flip, draw_crops

CPU = torch.device("cpu")


@pytest.fixture
def cifar(tmp_path, write_parquet):
    """CIFAR-10 in miniature: 12 + 8 training images in two files, 10 test images."""
    write_parquet(tmp_path / "train-0.parquet", [i % 10 for i in range(12)])
    write_parquet(tmp_path / "train-1.parquet", [i % 10 for i in range(8)])
    write_parquet(tmp_path / "test.parquet", list(range(10)))
    return tmp_path


def folder(root, encoded, classes=("cat", "dog"), n=3, size=40, test="test"):
    for number, (split, name) in enumerate((s, c) for s in ("train", test) for c in classes):
        (root / split / name).mkdir(parents=True)
        for i in range(n):
            (root / split / name / f"{i}.png").write_bytes(encoded(10 * number + i, size))
    return root


def batches(source, **kwargs):
    return list(source.epoch(4, seed=3, **kwargs))


def test_splits_do_not_overlap(cifar):
    config = DataConfig("cifar10", str(cifar), held_out=0.25)
    train, held_out, test = (list_images(config, s) for s in ("train", "held_out", "test"))
    assert (len(train), len(held_out), len(test)) == (15, 5, 10)
    names = {s.images.name(i) for s in (train, held_out) for i in range(len(s))}
    assert len(names) == 20
    assert test.labels.tolist() == list(range(10))
    smaller = list_images(DataConfig("cifar10", str(cifar), n_train=8, n_test=3), "train")
    assert len(smaller) == 7


def test_cifar2_is_animals_and_transport(cifar):
    test = list_images(DataConfig("cifar2", str(cifar)), "test")
    assert np.flatnonzero(test.labels).tolist() == list(TRANSPORT)
    assert test.n_classes == 2


def test_digits_need_no_download():
    train = open_source(DataConfig("digits", n_test=5), "test", CPU)
    (batch,) = train.plain(5)
    assert batch.images.shape == (5, 3, 32, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.max() > 200


def test_an_epoch_is_a_function_of_its_seed(cifar):
    source = open_source(DataConfig("cifar10", str(cifar), held_out=0), "train", CPU)
    once, again = batches(source), batches(source)
    assert [len(b.labels) for b in once] == [4] * 5
    for a, b in zip(once, again, strict=True):
        assert torch.equal(a.images, b.images)
    for a, b in zip(once[2:], batches(source, skip=2), strict=True):
        assert torch.equal(a.images, b.images)
    for rank in (0, 1):
        for whole, part in zip(once, batches(source, shard=Shard(rank, 2)), strict=True):
            assert torch.equal(whole.images[rank::2], part.images)
            assert part.size == 4
    other = next(source.epoch(4, seed=4))
    assert not torch.equal(other.images, once[0].images)


@pytest.mark.parametrize("data", ["cifar10", "oct2017"])
def test_shards_of_a_minibatch_smaller_than_the_number_of_processes(tmp_path, encoded, data):
    n_classes, size = (10, 32) if data == "cifar10" else (2, 40)
    classes = [str(i) for i in range(n_classes)]
    folder(tmp_path, encoded, classes, n=8 // n_classes or 1, size=size)
    config = DataConfig(data, str(tmp_path), held_out=0, n_train=8, n_workers=0)
    source = open_source(config, "train", CPU)
    whole = list(source.epoch(7, seed=3))
    parts = [list(source.epoch(7, seed=3, shard=Shard(rank, 4))) for rank in range(4)]
    for number, batch in enumerate(whole):
        for rank in range(4):
            part = parts[rank][number]
            assert torch.equal(part.images, batch.images[rank::4])
            assert torch.equal(part.labels, batch.labels[rank::4])
            assert (part.images.dtype, part.labels.dtype) == (torch.uint8, torch.int64)
            assert part.size == batch.size
    side = whole[0].images.shape[-1]
    assert parts[3][1].images.shape == (0, 3, side, side)


def test_workers_that_are_started_afresh_read_the_same(tmp_path, encoded, monkeypatch):
    folder(tmp_path, encoded)
    config = DataConfig("oct2017", str(tmp_path), held_out=0, n_workers=0)
    expected = batches(open_source(config, "train", CPU))
    # As on macOS and Windows: nothing is inherited, all that a worker needs is sent to it.
    spawning = partial(source.DataLoader, multiprocessing_context="spawn")
    monkeypatch.setattr(source, "DataLoader", spawning)
    found = batches(open_source(replace(config, n_workers=1), "train", CPU))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)


def test_listings_of_every_kind_can_be_sent_to_a_process(cifar, tmp_path, encoded):
    folder(tmp_path / "folders", encoded)
    for config in (
        DataConfig("digits"),
        DataConfig("cifar10", str(cifar)),
        DataConfig("oct2017", str(tmp_path / "folders")),
    ):
        listing = list_images(config, "train")
        sent = pickle.loads(pickle.dumps(listing))
        assert np.array_equal(np.array(sent.image(0)), np.array(listing.image(0)))
        assert sent.images.name(0) == listing.images.name(0)


def test_crops_and_mirror_images():
    images = torch.randint(256, (8, 3, 6, 6), dtype=torch.uint8)
    offsets, mirrored = draw_crops(8, 2, True, torch.Generator().manual_seed(0))
    assert mirrored.any()
    assert not mirrored.all()
    found = crop_and_flip(images, offsets, mirrored, 2)
    for i in range(8):
        top, left = offsets[i]
        expected = F.pad(images[i], (2,) * 4)[:, top : top + 6, left : left + 6]
        assert torch.equal(found[i], expected.flip(2) if mirrored[i] else expected)
    assert not draw_crops(8, 2, False, torch.Generator())[1].any()


@pytest.mark.parametrize("n_workers", [0, 1])
def test_large_images_stream_from_class_folders(tmp_path, encoded, n_workers):
    folder(tmp_path, encoded, test="val")
    config = DataConfig("oct2017", str(tmp_path), held_out=0, n_workers=n_workers)
    source = open_source(config, "train", CPU)
    assert (len(source), source.n_classes) == (6, 2)
    first, second = batches(source)
    assert first.images.shape == (4, 3, 224, 224)
    assert len(second.labels) == 2
    again = batches(source, skip=1)[0]
    assert torch.equal(again.images, second.images)
    (test,) = open_source(config, "test", CPU).plain(10)
    assert test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_folder_of_any_classes_and_sizes(tmp_path, encoded):
    folder(tmp_path, encoded, classes=("ant", "bee", "cow"), n=2, size=50, test="val")
    (tmp_path / "train" / "bee" / "wide.jpg").write_bytes(encoded(99, 70, "JPEG"))
    (tmp_path / "train" / "bee" / "notes.txt").write_text("no image")
    (tmp_path / "train" / ".thumbnails").mkdir()
    config = DataConfig("folder", str(tmp_path), held_out=0, n_workers=0, image_size=48)
    source = open_source(config, "train", CPU)
    assert (len(source), source.n_classes) == (7, 3)
    assert class_names(config) == ("ant", "bee", "cow")
    (batch,) = source.plain(10)
    assert batch.images.shape == (7, 3, 48, 48)
    assert batch.truth.tolist() == [0, 0, 1, 1, 1, 2, 2]
    (test,) = open_source(replace(config, image_size=None), "test", CPU).plain(10)
    assert test.images.shape == (6, 3, 224, 224)


def test_folders_that_lack_something(tmp_path, encoded):
    with pytest.raises(UserError, match="--data folder needs --data-path: a folder that holds tr"):
        list_images(DataConfig("folder"), "train")
    for i in range(2):
        (tmp_path / "train" / "ant").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "ant" / f"{i}.png").write_bytes(encoded(i))
    config = DataConfig("folder", str(tmp_path), n_workers=0)
    with pytest.raises(UserError, match="no folder test or val of class folders"):
        list_images(config, "test")
    (tmp_path / "train" / "ant" / "2.png").write_text("no image")
    with pytest.raises(UserError, match=r"ant/2\.png is no readable image"):
        list(open_source(config, "train", CPU).plain(9))
    (tmp_path / "train" / "bee").mkdir()
    with pytest.raises(UserError, match="train/bee holds no image"):
        list_images(config, "train")
    with pytest.raises(UserError, match="--image-size is for --data folder; leave it out for cif"):
        DataConfig("cifar10", image_size=48)


def test_class_names(cifar, tmp_path, encoded):
    folder(tmp_path / "folders", encoded)
    assert class_names(DataConfig("digits")) == tuple("0123456789")
    assert class_names(DataConfig("cifar10", str(cifar)))[9] == "truck"
    assert class_names(DataConfig("cifar2", str(cifar))) == ("animals", "transport")
    assert class_names(DataConfig("oct2017", str(tmp_path / "folders"))) == ("cat", "dog")
    for name in ("cifar100", "imagenet"):
        assert class_names(DataConfig(name, str(cifar))) is None


def test_tiny_imagenets_layout(tmp_path, encoded):
    for name in ("n01", "n02"):
        images = tmp_path / "train" / name / "images"
        images.mkdir(parents=True)
        (images / f"{name}_0.JPEG").write_bytes(encoded(0, 64, "JPEG"))
    (tmp_path / "val" / "images").mkdir(parents=True)
    (tmp_path / "test" / "images").mkdir(parents=True)
    (tmp_path / "val" / "images" / "val_0.JPEG").write_bytes(encoded(1, 64, "JPEG"))
    annotations = tmp_path / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn02\t0\t0\t62\t62\n")
    config = DataConfig("tinyimagenet", str(tmp_path))
    (batch,) = open_source(config, "test", CPU).plain(4)
    assert batch.labels.tolist() == [1]
    assert batch.images.shape == (1, 3, 64, 64)
    annotations.write_text("val_0.JPEG\tn09\n")
    with pytest.raises(UserError, match="line 1 names no image and class"):
        list_images(config, "test")


def test_parquet_without_the_columns(tmp_path, write_parquet):
    write_parquet(tmp_path / "test.parquet", [0, 1])
    table = tmp_path / "train.parquet"
    write_parquet(table, [0, 1], picture=["a", "b"])
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"picture": ["a"], "label": [0]}), table)
    with pytest.raises(UserError, match=r"train\.parquet has no column img or image"):
        list_images(DataConfig("cifar10", str(tmp_path)), "train")
    table.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"train\.parquet is no readable parquet file"):
        list_images(DataConfig("cifar10", str(tmp_path)), "train")


def test_labels_out_of_range(tmp_path, write_parquet):
    write_parquet(tmp_path / "train.parquet", [3, 11])
    with pytest.raises(UserError, match=r"row 1 has the label 11, expected 0 to 9"):
        list_images(DataConfig("cifar10", str(tmp_path)), "train")


def test_an_unreadable_image_is_named(cifar, write_parquet):
    broken = [{"bytes": b"no image", "path": None}] * 10
    write_parquet(cifar / "test.parquet", list(range(10)), img=broken)
    with pytest.raises(UserError, match=r"test\.parquet: row 0 is no readable image"):
        open_source(DataConfig("cifar10", str(cifar)), "test", CPU)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_unreadable_image_file_is_named(tmp_path, encoded, n_workers):
    folder(tmp_path, encoded)
    (tmp_path / "train" / "dog" / "1.png").write_bytes(b"no image")
    config = DataConfig("oct2017", str(tmp_path), held_out=0, n_workers=n_workers)
    with pytest.raises(UserError, match=r"dog/1\.png is no readable image") as raised:
        batches(open_source(config, "train", CPU))
    assert "\n" not in str(raised.value)


def test_images_of_another_size(tmp_path, encoded):
    folder(tmp_path, encoded, classes=[str(i) for i in range(10)], n=1)
    with pytest.raises(UserError, match=r"0\.png is 40x40 pixels, expected 32x32"):
        open_source(DataConfig("cifar10", str(tmp_path), held_out=0), "train", CPU)


def test_folders_that_cannot_be_used(tmp_path, encoded):
    with pytest.raises(UserError, match="is no folder"):
        list_images(DataConfig("cifar10", str(tmp_path / "nowhere")), "train")
    with pytest.raises(UserError, match="no folder train of class folders"):
        list_images(DataConfig("imagenet", str(tmp_path)), "train")
    folder(tmp_path, encoded)
    (tmp_path / "train" / "eel").mkdir()
    with pytest.raises(UserError, match="train/eel holds no image"):
        list_images(DataConfig("imagenet", str(tmp_path)), "train")
    (tmp_path / "test" / "fox").mkdir()
    with pytest.raises(UserError, match="test/fox is a class that"):
        list_images(DataConfig("imagenet", str(tmp_path)), "test")


@pytest.mark.parametrize("settings", [{"held_out": 1.0}, {"n_train": 1}, {"n_workers": -1}])
def test_settings_out_of_range(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        DataConfig(**settings)
