"""Thresholds that realise the costs that an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ztw_rl.commands._playing import backends, how
from ztw_rl.console import counted_games
from ztw_rl.rl.agent import Agent
from ztw_rl.rl.config import EvalRun

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from ztw_rl.decision import Rule
    from ztw_rl.rl.batch import EnvBatch
    from ztw_rl.rl.journal import Journal
    from ztw_rl.rl.play import Game


def calibrated(
    run: EvalRun,
    agent: Agent,
    batches: Sequence[EnvBatch],
    device: torch.device,
    console: Console,
) -> EvalRun:
    """The settings with thresholds that realise ``run.costs``, found by playing other games.

    Raises:
        UserError: A cost cannot be reached.
    """
    from ztw_rl.rl.calibrate import N_ROUNDS, calibrate, check_costs

    mode, macs = run.evaluation.action_mode, _macs(run, agent)
    for rule, costs in macs.items():
        check_costs(run.costs, costs, rule)
    backend, judges = backends(run, agent, device)
    with console.status("") as status:
        found = calibrate(
            backend,
            batches,
            dict.fromkeys(macs, run.costs),
            macs,
            seed=run.seed,
            action_mode=mode,
            device=device,
            judges=judges,
            on_round=lambda number: status.update(
                f"finding thresholds: round {number} of {N_ROUNDS}"
            ),
        )
    own, *others = found.values()
    beside = others[0] if others else ()
    return replace(
        run,
        thresholds=tuple(point.threshold for point in own),
        beside=tuple(point.threshold for point in beside),
        slopes=tuple(point.slope for point in (*own, *beside)),
    )


def settled(
    run: EvalRun,
    agent: Agent,
    batches: Sequence[EnvBatch],
    device: torch.device,
    journal: Journal,
    console: Console,
) -> EvalRun:
    """The settings with thresholds whose rows of the table cost what was asked for.

    Rows that do not are played again at others. What they score plays no part. The journal has all
    games, so that a stopped evaluation comes to the same thresholds.
    """
    from ztw_rl.core.cost import relative_cost
    from ztw_rl.rl.calibrate import N_CORRECTIONS, corrected, to_correct
    from ztw_rl.rl.evaluate import play
    from ztw_rl.rl.rows import Row, adaptive

    macs = _macs(run, agent)
    backend, judges = backends(run, agent, device)
    names = list(macs)
    wishes = [(rule, aim) for rule in names for aim in run.costs]
    thresholds = [*run.thresholds, *run.beside]
    for _ in range(N_CORRECTIONS):
        rows = [
            Row(adaptive(rule, t), compared=run.disagreement and rule == run.rule)
            for (rule, _), t in zip(wishes, thresholds, strict=True)
        ]
        n_games = run.evaluation.n_episodes * len(rows)
        with counted_games(n_games, console) as count:

            def on_game(game: Game, count: Any = count) -> None:
                journal.add(game)
                count(game)

            results = play(
                backend,
                batches,
                rows,
                on_game=on_game,
                **how(run, device, judges, journal),
            )
        realised = [
            relative_cost(result.exit_shares, macs[rule])
            for (rule, _), result in zip(wishes, results, strict=True)
        ]
        by_aim = np.reshape(realised, (len(names), -1)).T
        off = np.array([to_correct(aim, each) for aim, each in zip(run.costs, by_aim, strict=True)])
        again = np.flatnonzero(off.T.ravel()).tolist()
        if not again:
            break
        for i in again:
            rule, aim = wishes[i]
            console.print(
                f"{rule} costs {realised[i]:.3f}, and {aim:g} was asked for; its games are played "
                "again at another threshold",
                soft_wrap=True,
            )
            thresholds[i] = corrected(thresholds[i], run.slopes[i], aim, realised[i])
    n = len(run.thresholds)
    return replace(run, thresholds=tuple(thresholds[:n]), beside=tuple(thresholds[n:]))


def _macs(run: EvalRun, agent: Agent) -> dict[Rule, tuple[float, ...]]:
    """Costs of leaving at each exit, of the table's rule and of confidence."""
    assert run.rule != "patience"
    rules: dict[Rule, None] = {run.rule: None, "confidence": None}
    mode = run.evaluation.action_mode
    return {rule: agent.judged(rule, mode).relative_macs() for rule in rules}
