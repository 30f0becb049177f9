"""Which operating point an agent is exported or timed with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ztw_rl import recipes
from ztw_rl.errors import UserError
from ztw_rl.points.targets import DEFAULT, Proposal, Targets, flag
from ztw_rl.rl.config import EvaluationConfig

if TYPE_CHECKING:
    from ztw_rl.core.choice import Choice, Risk, Target, Trial
    from ztw_rl.rl.agent import Agent
    from ztw_rl.rl.tables import StoredTable

DEFAULT_KEEP = 0.95
"""Share of the return that the default keeps, at the least time."""


@dataclass(frozen=True)
class OperatingPoint(Targets):
    """A threshold, or what it is chosen for; at most one of them.

    They choose from an evaluation of the agent. --risk needs one with --disagreement. Without any,
    it is what keeps 95 % of the return in the least measured time.
    """

    calibration: Path | None = None
    """Folder of the eval run whose curve.json they choose from; by default the agent's own, else
    the game's newest eval run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.calibration is not None and {self.budget, self.keep, self.risk} == {None}:
            raise UserError("--calibration needs --budget, --keep or --risk, which choose from it")


def choose(point: OperatingPoint, agent: Agent, folder: Path, runs_dir: Path) -> Proposal:
    """The operating point that is asked for.

    Args:
        point: What the user wants.
        agent: Whose it is.
        folder: The agent's folder.
        runs_dir: Usually ``runs``.

    Raises:
        UserError: There is no calibration run, or nothing in it will do.
    """
    from ztw_rl.core import choice
    from ztw_rl.core.choice import Threshold, Unreachable
    from ztw_rl.points import calibration_run
    from ztw_rl.rl.tables import trial_of

    if point.threshold is not None:
        return Proposal(Threshold(point.threshold))
    game = agent.config.environment.name
    random = recipes.of(agent.config.environment).random_return
    target = point.target
    if not agent.has_exits and target is not None:
        raise UserError(
            f"{folder} is a student, which has no exits to choose; leave out {flag(target)}"
        )
    if not agent.has_exits:
        return Proposal(Threshold(DEFAULT))
    if target is None:
        return _default(agent, folder, runs_dir, random)
    path = calibration_run.find(point.calibration, agent, folder, runs_dir)
    table = calibration_run.load(path, agent, folder)
    random = table.random_return if random is None else random
    trial = trial_of(table, random, point.cost)
    if isinstance(target, choice.Keep) and random is None:
        raise UserError(
            f"--keep counts from random play's return, and the recipe of {game} has none; "
            f"measure it with: ztw-rl score --random --env {game}, and add random_return to "
            f"envs/{game}.yaml; or give --budget or --threshold"
        )
    if isinstance(target, choice.Risk) and trial.disagreement is None:
        raise UserError(
            f"{path} does not say how often the full model was contradicted; make a calibration "
            f"run with: {_more_for(target, folder, table)}"
        )
    found = choice.choose(target, trial)
    if isinstance(found, Unreachable):
        remedy = ""
        if isinstance(target, choice.Risk):
            remedy = f"; try twice as many: {_more_for(target, folder, table)}"
        elif isinstance(target, choice.Keep) and trial.no_skill is not None:
            beats = trial.full.mean() > trial.no_skill
            remedy = ", or evaluate at more thresholds" if beats else "; train the policy further"
        raise UserError(f"{path}: {flag(target)} {found.why}{remedy}")
    chosen = _chosen(found, target, trial, point, path)
    record = {**point.record(), "n_games": len(trial)}
    if isinstance(target, choice.Risk):
        record["observed_disagreement"] = found.on_all.disagreement
        return Proposal(found.point, (chosen,), record)
    why = "a half of the games allows no choice, or random play scores as much there"
    if random is None:
        why = f"the recipe of {game} has no random_return"
    told = f"what it keeps cannot be told: {why}"
    if found.expected is not None and found.expected.kept is not None:
        told = (
            f"on other games than it was made on, such a choice keeps {found.expected.kept:.1%} at "
            f"{found.expected.cost:.3f}"
        )
        record |= {
            "expected_cost": found.expected.cost,
            "expected_kept": found.expected.kept,
        }
    return Proposal(found.point, (chosen, told, *_few(len(trial), folder, table)), record)


def _chosen(found: Choice, target: Target, trial: Trial, point: OperatingPoint, path: Path) -> str:
    """What was chosen, and what it does to the games that it was chosen on."""
    from ztw_rl.core.choice import Risk

    there = found.on_all
    begin = f"{found.point} is chosen on all {len(trial)} games of {path}: there, "
    where = f"at {there.cost:.3f} of the {point.cost_word}"
    if isinstance(target, Risk):
        return (
            f"{begin}{there.disagreement:.2%} of the decisions differ from the full model's, "
            f"{where}; with confidence {target.confidence:g}, at most {target.share:.1%} of a "
            "game's decisions differ in expectation"
        )
    kept = "" if there.kept is None else f"{there.kept:.1%} of the return over random play "
    return f"{begin}{kept}{where}"


def _default(agent: Agent, folder: Path, runs_dir: Path, random: float | None) -> Proposal:
    """What keeps most of the return in the least measured time, as the agent's own table shows."""
    from ztw_rl.core.choice import Keep, Threshold, Unreachable, choose
    from ztw_rl.points import calibration_run
    from ztw_rl.rl.tables import trial_of

    own = folder / calibration_run.CURVE
    path = own if own.is_file() else calibration_run.newest(agent, runs_dir)
    if path is None:
        unknown = f"nobody has measured what threshold {DEFAULT:g} keeps and saves; find out with: "
        return Proposal(Threshold(DEFAULT), (f"{unknown}ztw-rl eval --agent {folder}",))
    table = calibration_run.load(path, agent, folder)
    random = table.random_return if random is None else random
    trial = trial_of(table, random, "time")
    if random is None or trial.full.mean() <= random:
        why = "its game's recipe has no random_return" if random is None else "it plays no better"
        unknown = f"what threshold {DEFAULT:g} keeps over random play cannot be told: {why}"
        return Proposal(Threshold(DEFAULT), (unknown,))
    found = choose(Keep(DEFAULT_KEEP), trial)
    if isinstance(found, Unreachable):
        nothing = f"nothing in {path} keeps {DEFAULT_KEEP:.0%} of the return in less time than the "
        full = "full network, so the threshold is 1, at which no exit answers"
        return Proposal(Threshold(1.0), (nothing + full,))
    worth, there = found.expected, found.on_all
    reason = (
        f"{found.point} keeps {there.kept:.1%} of the return over random play in {there.cost:.2f} "
        f"of the full network's time, on the {len(trial)} games of {path} that it was chosen on"
    )
    if worth is not None and worth.kept is not None:
        reason = (
            f"{found.point}: such a choice keeps {worth.kept:.1%} of the return over random play "
            f"in {worth.cost:.2f} of the full network's time, on other games than it was made on "
            f"({there.kept:.1%} in {there.cost:.2f} on all {len(trial)} games of {path})"
        )
    record: dict[str, Any] = {
        "keep": DEFAULT_KEEP,
        "cost_counts": "time",
        "n_games": len(trial),
    }
    if worth is not None:
        record |= {"expected_cost": worth.cost, "expected_kept": worth.kept}
    return Proposal(found.point, (reason,), record)


def _more_for(target: Risk, folder: Path, table: StoredTable) -> str:
    """The commands that make an evaluation for a guarantee."""
    from ztw_rl.core.risk import fewest_units

    fewest = fewest_units(target.share, target.confidence)
    return _playing_more(folder, 2 * fewest, *table.flags, "--disagreement")


def _playing_more(folder: Path, n_episodes: int, *flags: str) -> str:
    """The commands that choose by other games."""
    command = shlex.join(["ztw-rl", "eval", "--agent", str(folder), *flags])
    return f"{command} --n-episodes {n_episodes} --output DIR, then --calibration DIR"


def _few(n: int, folder: Path, table: StoredTable) -> tuple[str, ...]:
    """A warning where a choice rests on fewer games than ``ztw-rl eval`` plays by default."""
    if n >= EvaluationConfig.n_episodes:
        return ()
    more = _playing_more(folder, 30, *table.flags)
    return (f"warning: {n} games are few to choose by; more come from: {more}",)
