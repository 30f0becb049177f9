from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ztw_rl.core.heads import Connection, MapClassifier, MapConfig
from ztw_rl.core.model import METHODS, EarlyExitModel

WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import json
import numpy as np
from ztw_rl import deploy
model = deploy.load(sys.argv[1])
answer = model.predict(np.load(sys.argv[2]))
print(json.dumps([answer.labels.tolist(), answer.exits.tolist(), model.metadata["labels"]]))
"""


@pytest.fixture
def without_torch(tmp_path) -> Callable[[Path, torch.Tensor], list[list[int | str]]]:
    """Labels, exits and names of labels that a file gives in a process without torch."""

    def run(file: Path, x: torch.Tensor) -> list[list[int | str]]:
        inputs = tmp_path / "x.npy"
        np.save(inputs, x.numpy())
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, str(file), str(inputs)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


MakeModel = Callable[..., EarlyExitModel]


@pytest.fixture
def make_model() -> MakeModel:
    """Small random models: ``make_model(n_exits, method, n_classes, size, ensemble_head)``."""

    def make(
        n_exits: int = 3,
        method: str = "ztw",
        n_classes: int = 5,
        size: int = 9,
        ensemble_head: bool = False,
    ) -> EarlyExitModel:
        parts = METHODS[method]
        torch.manual_seed(n_exits)
        blocks = [nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())]
        for _ in range(n_exits - 1):
            blocks.append(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()))
        ics = [
            MapClassifier(
                MapConfig(4, (size, size), 4),
                Connection(n_classes, cascade=parts.cascade and m > 0),
            )
            for m in range(n_exits - 1)
        ]
        head = nn.Sequential(nn.Flatten(), nn.Linear(4 * size * size, n_classes))
        n_members = len(ics) + ensemble_head
        ensemble = parts.ensemble(n_members, n_classes) if parts.ensemble and n_members else None
        model = EarlyExitModel(blocks, head, ics, range(1, n_exits), ensemble).eval()
        for name, parameter in model.named_parameters():
            # Large enough for the exits to disagree, with confidences all over 0 … 1.
            nn.init.normal_(parameter, std=0.15 if "linear" in name or "head" in name else 0.3)
        return model.requires_grad_(False)

    return make
