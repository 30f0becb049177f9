"""Pictures of evaluation tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ztw_rl.core.files import write_atomically
from ztw_rl.rl.report.results import Method

COSTS = {
    "relative_time": "inference time, relative to the backbone",
    "relative_macs": "operations (MACs), relative to the backbone",
}
ADAPTIVE, CONTROL, FORCED, BACKBONE = "#0b6e99", "#999999", "#d1495b", "#222222"
BESIDE = "#c98a1b"
"""Of a rule that stands beside the table's own."""
SIGNS = {"gate": "regret", "margin": "margin", "patience": "t", "confidence": "τ"}
"""What a rule's number is called, the table's own rule first."""


def plot_curve(table: pd.DataFrame, title: str, note: str, path: Path) -> None:
    """Draw return against cost, once by time and once by operations.

    Args:
        table: What ``rl.evaluate.table`` gives.
        title: Of the picture.
        note: Small print below: games, seeds, backend.
        path: PNG file, written atomically.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axis, (cost, label) in zip(axes, COSTS.items(), strict=True):
        _draw(axis, table, cost)
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        axis.margins(x=0.1, y=0.15)
    axes[0].set_ylabel("return of a full game")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize=8)
    axes[0].set_title(title, loc="left", fontsize=11)
    figure.supxlabel(note, fontsize=8, color="#555555")
    _save(figure, path)


def _draw(axis: Axes, table: pd.DataFrame, cost: str) -> None:
    backbone = table[table["rule"] == "backbone"].iloc[0]
    axis.axhline(backbone["return_mean"], color=BACKBONE, lw=1, ls=":", zorder=1)
    axis.axhspan(backbone["return_ci_low"], backbone["return_ci_high"], color=BACKBONE, alpha=0.08)
    axis.plot(1.0, backbone["return_mean"], "D", color=BACKBONE, label="backbone", zorder=4)
    control = table[table["rule"] == "random"].sort_values(cost)
    axis.plot(
        control[cost],
        control["return_mean"],
        "x--",
        color=CONTROL,
        label="exits drawn at random, same shares",
    )
    for _, row in table[table["rule"] == "forced"].iterrows():
        axis.plot(row[cost], row["return_mean"], "s", color=FORCED, ms=6, zorder=3)
        _label(axis, f"exit {row['threshold']:.0f}", row, cost, (6, -11), FORCED)
    axis.plot([], [], "s", color=FORCED, label="one exit forced")
    played = [rule for rule in SIGNS if (table["rule"] == rule).any()]
    for rule, color in zip(played, (ADAPTIVE, BESIDE), strict=False):
        adaptive = table[table["rule"] == rule].sort_values(cost)
        # Patience is a whole number: there is nothing between its points.
        style = "o" if rule == "patience" else "o-"
        axis.plot(adaptive[cost], adaptive["return_mean"], style, color=color, label=rule)
        axis.fill_between(
            adaptive[cost],
            adaptive["return_ci_low"],
            adaptive["return_ci_high"],
            color=color,
            alpha=0.18,
            lw=0,
        )
        for _, row in adaptive.iloc[[0, -1]].iterrows():
            _label(axis, f"{SIGNS[rule]} = {row['threshold']:.3g}", row, cost, (4, 7), color)


def _label(
    axis: Axes, text: str, row: pd.Series, cost: str, offset: tuple[int, int], color: str
) -> None:
    """Name a point, readable also where lines run below."""
    axis.annotate(
        text,
        (row[cost], row["return_mean"]),
        textcoords="offset points",
        xytext=offset,
        fontsize=8,
        color=color,
        zorder=5,
        path_effects=[withStroke(linewidth=3, foreground="white")],
    )


def plot_bench(table: pd.DataFrame, title: str, path: Path) -> None:
    """Draw each case's time beside the operations it should take.

    Args:
        table: Columns as ``core.bench.Latency``.
        title: Of the picture.
        path: PNG file, written atomically.
    """
    groups = list(table.groupby(["backend", "batch_size", "threads"], sort=False))
    size = (1 + 3.2 * len(groups), 3.8)
    figure, axes = plt.subplots(
        1, len(groups), figsize=size, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, ((backend, batch_size, threads), rows) in zip(axes[0], groups, strict=True):
        places = range(len(rows))
        axis.bar(places, rows["relative_time"], color=ADAPTIVE, label="measured time")
        axis.plot(places, rows["relative_macs"], "_", color=FORCED, ms=18, mew=2, label="MACs")
        axis.axhline(1, color=BACKBONE, lw=1, ls=":")
        axis.set_xticks(places, rows["case"], rotation=60, fontsize=8)
        axis.set_title(f"{backend}\nbatch {batch_size}, threads {threads}", fontsize=9)
    axes[0][0].set_ylabel("relative to the backbone")
    axes[0][-1].legend(fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


POINTS = ("pbee", "student")
"""Methods whose settings have nothing between them."""


def plot_games(points: pd.DataFrame, note: str, path: Path) -> None:
    """Draw one panel per game: return with spread against relative time, one line per method.

    Args:
        points: Columns ``game``, ``method`` (a ``Method``), ``relative_time``, ``return_mean``,
            ``return_std``; the method ``backbone`` is marked.
        note: Small print below.
        path: PNG file, written atomically.
    """
    games = list(points.groupby("game", sort=True))
    n_rows = -(-len(games) // 4)
    n_columns = -(-len(games) // n_rows)
    size = (max(5.5, 3.4 * n_columns), 0.9 + 3.1 * n_rows)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=size, squeeze=False, layout="constrained"
    )
    styles = _styles(points["method"])
    shown: dict[str, Any] = {}
    for axis, (game, rows) in zip(axes.flat, games, strict=False):
        for method, style in styles.items():
            own = rows[rows["method"] == method].sort_values("relative_time")
            if len(own):
                shown[str(method)] = _draw_method(axis, method, own, style)
        axis.set_title(str(game), fontsize=10)
        axis.grid(alpha=0.25)
    for axis in axes.flat[len(games) :]:
        axis.set_visible(False)
    figure.legend(
        list(shown.values()),
        list(shown),
        loc="outside upper center",
        ncols=min(len(shown), n_columns + 2),
        fontsize=8,
    )
    figure.supylabel("return: mean ± standard deviation of games", fontsize=9)
    figure.supxlabel(f"{COSTS['relative_time']}\n{note}", fontsize=8)
    _save(figure, path)


class Style(NamedTuple):
    """What tells methods, and the variants of one, apart."""

    color: str | None
    marker: str
    line: str
    hollow: bool


def _styles(methods: Iterable[Method]) -> dict[Method, Style]:
    """Of each method.

    Colour is the method's; sampled actions are dotted and hollow; variants of other kinds have
    dashes, and markers of their own.
    """
    styles: dict[Method, Style] = {}
    kinds: list[tuple[str, ...]] = []
    for method in dict.fromkeys(methods):
        kind = replace(method, sampled=False).qualifiers
        if kind and kind not in kinds:
            kinds.append(kind)
        plain = "D" if method.name == "backbone" else "s" if method.name in POINTS else "o"
        marker = MARKERS[kinds.index(kind) % len(MARKERS)] if kind else plain
        line = ":" if method.sampled else "--" if kind else "-"
        color = BACKBONE if method.name == "backbone" else METHOD_COLORS.get(method.name)
        styles[method] = Style(color, marker, line, method.sampled)
    return styles


MARKERS = "^vP*X"


def _draw_method(axis: Axes, method: Method, rows: pd.DataFrame, style: Style) -> Any:
    """One method's points or line in one game; returns what its legend shows."""
    x, mean, std = rows["relative_time"], rows["return_mean"], rows["return_std"]
    look: dict[str, Any] = {"color": style.color, "marker": style.marker}
    if style.hollow:
        look["markerfacecolor"] = "white"
    if method.name == "backbone":
        axis.axhline(mean.iloc[0], color=style.color, lw=1, ls=":", zorder=1)
        return axis.errorbar(x, mean, std, ls="none", ms=5, capsize=3, zorder=4, **look)
    if method.name in POINTS:
        return axis.errorbar(x, mean, std, ls="none", ms=4, capsize=3, zorder=3, **look)
    (line,) = axis.plot(x, mean, ls=style.line, ms=3, **look)
    # Bands of many methods at full strength would hide one another.
    alpha = 0.16 if replace(method, sampled=False) == Method("ztw") else 0.04
    axis.fill_between(x, mean - std, mean + std, color=line.get_color(), alpha=alpha, lw=0)
    return line


METHOD_COLORS = {
    "ztw": "#0b6e99",
    "sdn": "#d1495b",
    "pbee": "#e3a857",
    "cascade": "#6a4c93",
    "ensemble": "#3a7d44",
    "additive": "#8c564b",
    "student": "#c77dff",
    "no_stop_gradient": "#777777",
}


def plot_accuracy(curve: pd.DataFrame, budgets: pd.DataFrame, title: str, path: Path) -> None:
    """Draw accuracy against cost, one line per method and run; the backbone as a dotted line.

    Args:
        curve: What ``supervised.evaluate.curve_table`` gives.
        budgets: What ``supervised.evaluate.budget_table`` gives.
        title: Of the picture.
        path: PNG file, written atomically.
    """
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    backbone = budgets[budgets["method"] == "backbone"].iloc[0]["accuracy"]
    axis.axhline(100 * backbone, color=BACKBONE, lw=1, ls=":", label="backbone")
    named: set[str] = set()
    for (method, _), rows in curve.groupby(["method", "run"], sort=False):
        trained, _, rule = str(method).partition(", ")
        axis.plot(
            rows["relative_macs"],
            100 * rows["accuracy"],
            "o-" if method == "pbee" else {"margin": ":", "gate": "--"}.get(rule, "-"),
            ms=3,
            color=METHOD_COLORS.get(trained),
            label=None if method in named else method,
        )
        named.add(str(method))
    axis.set_xlabel(COSTS["relative_macs"])
    axis.set_ylabel("accuracy, %")
    axis.grid(alpha=0.25)
    axis.legend(loc="lower right", fontsize=8)
    figure.suptitle(title)
    figure.supxlabel("test images; each point is one threshold", fontsize=8, color="#555555")
    _save(figure, path)


def plot_exits(exits: pd.DataFrame, title: str, path: Path) -> None:
    """Draw each exit's accuracy and Hindsight Improvability.

    Args:
        exits: What ``supervised.evaluate.exit_table`` gives.
        title: Of the picture.
        path: PNG file, written atomically.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    labels = {"accuracy": "accuracy, %", "hindsight_improvability": "Hindsight Improvability, %"}
    # Exits are the same whatever judges them.
    own = exits[exits["rule"] == "confidence"]
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        for (method, _), rows in own.groupby(["method", "run"], sort=False):
            color = METHOD_COLORS.get(str(method))
            axis.plot(rows["exit"], 100 * rows[column], "o-", ms=3, color=color, label=method)
        axis.set_xlabel("exit")
        axis.set_ylabel(label)
        axis.grid(alpha=0.25)
    axes[0].legend(loc="lower right", fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    try:
        write_atomically(path, lambda p: figure.savefig(p, dpi=150, format="png"))
    finally:
        plt.close(figure)
