"""Which confidence threshold τ an agent is exported or timed with."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl import recipes
from ztw_rl.atari.config import EvaluationConfig
from ztw_rl.commands._targets import DEFAULT, Choice, check_targets
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from ztw_rl.atari.agent import Agent
    from ztw_rl.commands._calibration_run import CalibrationRun


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, or what it is chosen for; at most one of them."""

    threshold: float | None = None
    """Confidence above which an exit answers; 0.9 if nothing else is asked for."""
    budget: float | None = None
    """The best threshold that costs at most this share of the backbone, such as 0.6."""
    keep: float | None = None
    """The cheapest threshold that keeps this share of the full model's return, such as 0.95,
    counted from a random policy's."""
    risk: float | None = None
    """The smallest threshold at which at most this share of a game's decisions, such as 0.02,
    differs from the full model's: the expected share, for any distribution of games, with
    --confidence. Needs an evaluation with --disagreement."""
    confidence: float = 0.95
    """Of --risk."""
    cost: Literal["macs", "time"] = "macs"
    """What --budget and --keep count: operations, or time as the evaluation measured it."""
    calibration: Path | None = None
    """Folder of the eval run whose curve.json they choose from; by default the agent's own, else
    the game's newest eval run."""

    def __post_init__(self) -> None:
        check_targets(
            threshold=self.threshold,
            budget=self.budget,
            keep=self.keep,
            risk=self.risk,
            confidence=self.confidence,
        )
        if self.calibration is not None and {self.budget, self.keep, self.risk} == {None}:
            raise UserError("--calibration needs --budget, --keep or --risk, which choose from it")


def choose(point: OperatingPoint, agent: Agent, folder: Path, runs_dir: Path) -> Choice:
    """The threshold that is asked for.

    Args:
        point: What the user wants.
        agent: Whose threshold it is.
        folder: The agent's folder.
        runs_dir: Usually ``runs``.

    Raises:
        UserError: There is no calibration run, or no threshold of it will do.
    """
    if point.budget is None and point.keep is None and point.risk is None:
        return Choice(DEFAULT if point.threshold is None else point.threshold)
    from ztw_rl.atari.games import canonical
    from ztw_rl.commands import _calibration_run

    game = canonical(agent.config.atari.game)
    path = _calibration_run.find(point.calibration, agent, folder, runs_dir)
    run = _calibration_run.load(path, agent, folder, point.cost)
    if point.risk is not None:
        return _controlling(run, point.risk, point.confidence, point.cost, folder)
    return _cheapest_or_best(run, point, game, folder)


def _playing_more(folder: Path, n_episodes: int, *flags: str) -> str:
    """The commands that choose a threshold by other games."""
    command = shlex.join(["ztw-rl", "eval", "--agent", str(folder), *flags])
    return f"{command} --n-episodes {n_episodes} --output DIR, then --calibration DIR"


def _few(run: CalibrationRun, folder: Path) -> tuple[str, ...]:
    """A warning where a choice rests on fewer games than ``ztw-rl eval`` plays by default."""
    n = len(run.full)
    if n >= EvaluationConfig.n_episodes:
        return ()
    return (
        f"warning: {n} games are few to choose by; more come from: {_playing_more(folder, 30)}",
    )


def _cheapest_or_best(
    run: CalibrationRun, point: OperatingPoint, game: str, folder: Path
) -> Choice:
    """``--keep`` or ``--budget``: chosen on all games, reported by halves."""
    from ztw_rl.core.selection import cross_fit, keeping, normalized, within

    random = recipes.load(game).random_return
    if point.keep is not None:
        if random is None:
            raise UserError(
                f"--keep counts from random play's return, and the recipe of {game} has none; "
                f"measure it with: ztw-rl score --random --env {game}, and add random_return to "
                f"envs/{game}.yaml; or give --budget or --threshold"
            )
        rule = keeping(random, point.keep)
        target: dict[str, float] = {"keep": point.keep}
    else:
        assert point.budget is not None
        rule = within(point.budget)
        target = {"budget": point.budget}
    scores, full = run.returns.mean(axis=1), float(run.full.mean())
    try:
        best = rule(scores, full, run.costs.on())
    except ValueError as error:
        raise UserError(f"{run.path}: {error}, so there is nothing to keep") from None
    if best is None and point.budget is not None:
        raise UserError(
            f"--budget {point.budget:g} is below the lowest cost of {run.path}, "
            f"{run.costs.on().min():.3f}"
        )
    if best is None:
        assert point.keep is not None
        assert random is not None
        cheaper = scores[run.costs.on() < 1]
        most = f" (the best has {cheaper.max():.4g})" if len(cheaper) else ""
        raise UserError(
            f"--keep {point.keep:g} needs a return of {random + point.keep * (full - random):.4g},"
            f" and no threshold of {run.path} has it at a lower cost than the full model{most}; "
            "ask for less, or evaluate at more thresholds"
        )
    unit = "operations" if point.cost == "macs" else "time"
    where = f"at {run.costs.on()[best]:.3f} of the {unit}"
    if random is not None and full > random:
        where = (
            f"{normalized(scores[best], random, full):.1%} of the return over random play {where}"
        )
    chosen = (
        f"threshold {run.thresholds[best]:g} is chosen on all {len(run.full)} games of {run.path}: "
        f"there, {where}"
    )
    record: dict[str, Any] = {**target, "cost_counts": point.cost, "n_games": len(run.full)}
    if random is None:
        told = f"what it keeps cannot be told: the recipe of {game} has no random_return"
    else:
        try:
            fit = cross_fit(rule, run.returns, run.costs, run.full, random)
        except ValueError as error:
            told = f"what it keeps cannot be told: {error}"
        else:
            told = (
                "a choice so made on one half of the games and tried on the other, in turn, keeps "
                f"{fit.kept:.1%} at {fit.cost:.3f}: that is what to expect of choosing"
            )
            record |= {"expected_cost": fit.cost, "expected_kept": fit.kept}
    return Choice(run.thresholds[best], (chosen, told, *_few(run, folder)), record)


def _controlling(
    run: CalibrationRun, risk: float, confidence: float, cost: str, folder: Path
) -> Choice:
    """``--risk``: the guarantee holds for the games that it is chosen on, all of them."""
    from ztw_rl.core.betting import betting
    from ztw_rl.core.calibration import controlling_risk, fewest_units

    fewest = fewest_units(risk, confidence, betting)
    remedy = _playing_more(folder, 2 * fewest, "--disagreement")
    if run.disagreement is None:
        raise UserError(
            f"{run.path} does not say how often the full model was contradicted; make a "
            f"calibration run with: {remedy}"
        )
    n = len(run.disagreement)
    found = controlling_risk(run.thresholds, run.disagreement, risk, confidence, betting)
    if found is None:
        observed = run.disagreement[:, -1].mean()
        raise UserError(
            f"{n} games cannot show that the risk is at most {risk:g} even at threshold "
            f"{run.thresholds[-1]:g}, where {observed:.2%} of the decisions differ; "
            f"{fewest} games without any difference are the least that can, so try twice as "
            f"many: {remedy}"
        )
    at = run.thresholds.index(found)
    observed = float(run.disagreement[:, at].mean())
    lines = (
        f"threshold {found:g} is chosen on all {n} games of {run.path}",
        f"with confidence {confidence:g}, at most {risk:.1%} of a game's decisions differ from "
        f"the full model's in expectation ({observed:.2%} in these games, at "
        f"{run.costs.on()[at]:.3f} of the {'operations' if cost == 'macs' else 'time'})",
    )
    record = {
        "risk": risk,
        "confidence": confidence,
        "n_games": n,
        "observed_disagreement": observed,
    }
    return Choice(found, lines, record)
