"""The programs of docs/deploy.md run as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ztw_rl import cli

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text()
NODE_MODULES = Path(__file__).parents[1] / "node_modules"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With the files that the page speaks of."""
    folder = tmp_path_factory.mktemp("deploy")
    for name in ("pong.onnx", "pong.zip", "pong.tflite"):
        arguments = ["--agent=pong/paper", "--threshold=0.9", f"--output={folder / name}"]
        assert cli.main(["export", *arguments]) == 0
    return folder


def run(folder: Path, *command: str, **env: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_code_of_ours(folder):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['ztw_rl'] = None\n" + blocks("python")[0]
    )
    action, left_at, confidence = run(folder, sys.executable, "-c", program).split()
    assert action in ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    assert left_at in ("0", "1", "2")
    assert 1 / 6 <= float(confidence) <= 1


def test_litert_without_code_of_ours(folder):
    program = (
        "import sys; sys.modules['torch'] = sys.modules['ztw_rl'] = None\n" + blocks("python")[1]
    )
    names = re.findall(r"^([a-z_]+) \[", run(folder, sys.executable, "-c", program), re.MULTILINE)
    assert names == ["action", "exit", "confidence", "log_probs"]


def test_batches_of_the_zip(folder):
    program = "import sys; sys.modules['torch'] = None\n" + blocks("python")[2]
    actions, exits = re.findall(r"\[([^\]]*)\]", run(folder, sys.executable, "-c", program))
    assert len(actions.split()) == len(exits.split()) == 32


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node")
@pytest.mark.skipif(
    not (NODE_MODULES / "onnxruntime-web").is_dir(),
    reason="onnxruntime-web is not installed: npm install onnxruntime-web",
)
def test_in_javascript(folder):
    """As the graph answers in Python."""
    (program,) = blocks("js")
    (folder / "run.mjs").write_text(program)
    (folder / "node_modules").symlink_to(NODE_MODULES)
    action, left_at, confidence = run(folder, "node", "run.mjs").split()
    python = blocks("python")[0].replace('metadata["labels"][action[0]]', "action[0]")
    wanted = run(folder, sys.executable, "-c", python).split()
    assert [action, left_at] == wanted[:2]
    assert float(confidence) == pytest.approx(float(wanted[2]), abs=1e-4)
