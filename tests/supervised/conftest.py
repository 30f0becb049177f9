from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ztw_rl.core.gates import make_gates
from ztw_rl.core.heads import Connection, MapClassifier, MapConfig
from ztw_rl.core.model import METHODS, EarlyExitModel
from ztw_rl.supervised.backbones.base import NormalizePixels
from ztw_rl.supervised.config import PixelConfig
from ztw_rl.supervised.data.source import DataSpec, MemorySource

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def _encoded(seed: int, size: int = 32, format: str = "PNG") -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(256, size=(size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=format)
    return file.getvalue()


def _write_parquet(path: Path, labels: list[int], size: int = 32, **columns) -> None:
    """A file in the layout of Hugging Face's image sets; ``columns`` rename or replace."""
    import pyarrow as pa
    from pyarrow import parquet

    images = [{"bytes": _encoded(i, size), "path": None} for i in range(len(labels))]
    parquet.write_table(pa.table({"img": images, "label": labels} | columns), path)


def _tiny_model(method: str = "ztw", n_classes: int = 3, gates: bool = False) -> EarlyExitModel:
    """Four small blocks with batch normalisation, an IC after each of the last three."""
    torch.manual_seed(0)
    pixels = PixelConfig()
    chosen = METHODS[method]

    def block(before: int) -> nn.Module:
        conv = nn.Conv2d(before, 4, 3, stride=2, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU())

    blocks = [NormalizePixels(pixels.mean, pixels.std), block(3), block(4), block(4)]
    ics = [
        MapClassifier(
            MapConfig(4, (size, size), 4),
            Connection(
                n_classes,
                cascade=chosen.cascade and size < 16,
                stop_gradient=chosen.stop_gradient,
            ),
        )
        for size in (16, 8, 4)
    ]
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 4 * 4, n_classes))
    ensemble = chosen.ensemble(4, n_classes) if chosen.ensemble else None
    made = make_gates([ic.n_pooled for ic in ics], n_classes, 10**6) if gates else []
    for gate in made:
        nn.init.normal_(gate.out.weight)
    return EarlyExitModel(
        blocks, head, ics, [2, 3, 4], ensemble, {"regret": made} if gates else None
    )


def _tiny_source(n: int = 24, n_classes: int = 3) -> MemorySource:
    """Noise whose brightness tells the class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % n_classes
    noise = torch.randint(60, (n, 3, 32, 32), generator=generator)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return MemorySource(images, labels, n_classes, DataSpec(n_classes, 32), CPU)


@pytest.fixture
def encoded():
    """An image file's bytes."""
    return _encoded


@pytest.fixture
def write_parquet():
    """Writes a parquet file of noise images."""
    return _write_parquet


@pytest.fixture
def tiny_model():
    """Makes a model of three ICs."""
    return _tiny_model


@pytest.fixture
def tiny_source():
    """Makes a few images that even a tiny model can tell apart."""
    return _tiny_source
