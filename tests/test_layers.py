"""What a layer may know, where import-linter cannot look: its words."""

from __future__ import annotations

import re
from pathlib import Path

CORE = Path(__file__).parents[1] / "ztw_rl" / "core"
FOREIGN = re.compile(
    r"\bgames?\b|atari|naturecnn|random play|gymnasium|stable.?baselines|\bsb3\b|\bale\b"
    r"|torchvision|\bpil\b|\bemulators?\b|(?<![\w-])--[a-z]",
    re.IGNORECASE,
)
"""Tasks, data, other libraries, and flags of the command line."""


def test_core_speaks_of_neither_games_nor_flags():
    found = [
        f"{path.relative_to(CORE)}:{number}: {line.strip()}"
        for path in sorted(CORE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FOREIGN.search(line)
    ]
    assert found == []
