"""Agents of random weights, and tables of theirs written by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ztw_rl.rl.agent import Agent, AgentConfig, build_model, load_agent, save_agent
from ztw_rl.rl.atari.config import AtariConfig

ACTIONS = {"pong": 6, "breakout": 4}
N_GAMES = 10
CONTROLS = ("one exit", "random exits")


def make_agent(
    game: str, n_actions: int | None = None, exits: tuple[str, ...] = ("conv1", "conv2")
) -> Agent:
    torch.manual_seed(0)
    atari = AtariConfig(game=game)
    config = AgentConfig(n_actions or ACTIONS[game], exits, "ztw", atari=atari)
    return Agent(config, build_model(config).eval())


def make_variant(folder: Path, exits: tuple[str, ...]) -> Agent:
    """An agent of the same policy within a game's folder, without a table yet."""
    agent = make_agent(folder.name, exits=exits)
    with torch.no_grad():
        agent.model.ics[-1].linear.bias.add_(1)
    policy = load_agent(folder).model.state_dict()
    own = {n: t for n, t in policy.items() if n.startswith(("blocks.", "head."))}
    agent.model.load_state_dict(own, strict=False)
    save_agent(folder / exits[0], agent)
    return load_agent(folder / exits[0])


def row(rule, threshold, returns, cost):
    return {
        "rule": rule,
        "threshold": threshold,
        "returns": list(map(float, returns)),
        "decisions": [100] * len(returns),
        "macs": [cost] * len(returns),
        "time": [cost / 2 + 0.4] * len(returns),
    }


def table(game, rows, **changes):
    return {
        "game": game,
        "rule": "confidence",
        "seed": 0,
        "evaluation": {"action_mode": "greedy"},
        "backend": "eager PyTorch",
        "method": "ztw",
        "identity": asdict(make_agent(game).identity()),
        "rows": rows,
        **changes,
    }


def write_table(path, *args, **changes):
    path.write_text(json.dumps(table(*args, **changes)))


def returns(mean, spread, seed):
    """Returns whose halves both have the given mean."""
    noise = np.random.default_rng(seed).normal(size=N_GAMES)
    for half in (noise[::2], noise[1::2]):
        half -= half.mean()
    return mean + spread * noise


FULL = {"pong": returns(18, 0.1, 0), "breakout": returns(301.2, 1, 1)}
FLOOR = {"pong": -20.2, "breakout": 1.2}


def kept(game, share, spread=0.2, seed=7):
    """Returns that keep a share of the full policy's, over random play."""
    scale = FULL[game].mean() - FLOOR[game]
    return returns(FLOOR[game] + share * scale, spread * scale / 40, seed)


def make_folder(game: str) -> Path:
    folder = Path("agents") / game
    agent = make_agent(game)
    save_agent(folder, agent)
    rows = [
        row("confidence", 0.2, kept(game, 0.90), 0.4),
        row("confidence", 0.5, kept(game, 0.96), 0.6),
        row("confidence", 0.9, kept(game, 0.995), 0.9),
        row("random", 0.5, kept(game, 0.5), 0.6),
        row("forced", 0.0, kept(game, 0.5), 0.376),
        row("backbone", None, FULL[game], 1.0),
    ]
    write_table(folder / "curve.json", game, rows)
    return folder


def identity_of(game: str) -> dict[str, str]:
    """Of other weights that imitate the same policy."""
    return {"agent": "0" * 16, "policy": make_agent(game).identity().policy}


def lines(*, controls: bool = False) -> list[dict[str, str]]:
    """Of the table of levels, with or without the controls'."""
    with Path("agents/games.csv").open() as file:
        return [
            r
            for r in csv.DictReader(file)
            if controls or r["method"].split(", ")[-1] not in CONTROLS
        ]


def told_gains() -> list[dict[str, str]]:
    """The table of gains."""
    with Path("agents/gains.csv").open() as file:
        return list(csv.DictReader(file))
