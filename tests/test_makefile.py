from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def table3(*settings: str) -> str:
    """The folder that ``make table3`` would fit into."""
    shown = subprocess.run(
        ["make", "-n", "table3", *settings], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    (folder,) = set(re.findall(r"runs/table3/[^/]+", shown))
    return folder


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_other_settings_of_table3_have_another_folder():
    settings = ["", "EPOCHS=6", "PRECISION=bfloat16", "BACKBONE=a.pt", "DATA=a b"]
    folders = [table3(*filter(None, [setting])) for setting in settings]
    assert len(set(folders)) == len(settings)
    assert table3("SEEDS=0 1") == table3()
