"""A run of distillation: its resolved settings, and the agent that it leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ztw_rl.core.settings import Ranged, Seed
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import DistillConfig

if TYPE_CHECKING:
    from ztw_rl.core.model import EarlyExitModel
    from ztw_rl.rl.agent import Agent
    from ztw_rl.rl.teacher import Teacher


@dataclass(frozen=True)
class DistillRun(Ranged):
    """Resolved settings, saved beside the weights."""

    seed: Seed
    policy: str
    atari: AtariConfig
    distill: DistillConfig
    ppo_timesteps: int | None = None
    ppo_seed: int | None = None
    imported_from: str | None = None
    ppo_noop_max: int | None = None


def made_agent(run: DistillRun, teacher: Teacher, model: EarlyExitModel) -> Agent:
    """The agent that a finished distillation leaves; a student stands on its own."""
    from ztw_rl.rl.agent import AgentConfig, agent_of, policy_fingerprint
    from ztw_rl.rl.student import student_of

    provenance = replace(
        teacher.provenance,
        distill_timesteps=run.distill.n_timesteps,
        distill_seed=run.seed,
    )
    config = AgentConfig(
        atari=run.atari,
        n_actions=teacher.n_actions,
        exits=run.distill.exits,
        method=run.distill.method,
        provenance=provenance,
    )
    if run.distill.method != "student":
        return agent_of(config, model)
    student = student_of(model)
    config = replace(
        config,
        exits=(),
        student_of=run.distill.student_of,
        widths=student.widths,
        provenance=replace(provenance, teacher=policy_fingerprint(teacher.parameters)),
    )
    return agent_of(config, student.policy)
