"""Where the policy to be distilled is: a run of train-ppo, an agent, or an SB3 ``.zip``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ztw_rl import agents, runs
from ztw_rl.atari.config import AtariConfig, PPORun

if TYPE_CHECKING:
    from ztw_rl.atari.teacher import Teacher

TEACHER_FILE = "teacher.safetensors"
"""A distillation run's own copy of its teacher, which tells it from a run of train-ppo."""


def is_zip(policy: Path) -> bool:
    """Whether this is what SB3 saves."""
    return policy.suffix == ".zip"


def is_ppo_run(policy: Path) -> bool:
    """Whether this is a run folder of train-ppo."""
    return (policy / runs.CONFIG).is_file() and not (policy / TEACHER_FILE).is_file()


def stored_atari(policy: Path) -> AtariConfig:
    """Game and pixels of a run or an agent."""
    if is_ppo_run(policy):
        return runs.load_config(PPORun, policy).atari
    from ztw_rl.atari.agent import load_agent

    return load_agent(agents.find(str(policy), Path("runs"))).config.atari


def load_teacher(policy: Path, atari: AtariConfig) -> Teacher:
    """Read the policy.

    Args:
        policy: Its run, agent or file.
        atari: Game and pixels; only an SB3 ``.zip`` does not say them itself.

    Raises:
        UserError: A file is missing, damaged or of another kind.
    """
    from ztw_rl.atari import teacher
    from ztw_rl.core.checkpoint import newest_checkpoint

    if is_zip(policy):
        return teacher.from_zip(policy, atari)
    if is_ppo_run(policy):
        run = runs.load_config(PPORun, policy)
        found = teacher.from_checkpoint(newest_checkpoint(policy), atari, run.seed)
        return replace(found, provenance=replace(found.provenance, imported_from=run.init))
    return teacher.from_agent(agents.find(str(policy), Path("runs")))
