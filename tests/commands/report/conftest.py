from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.report.tables import make_folder


@pytest.fixture
def pong(folder) -> Path:
    return make_folder("pong")


@pytest.fixture
def both(pong) -> Path:
    make_folder("breakout")
    return Path("agents")
