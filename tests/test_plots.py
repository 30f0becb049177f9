from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from ztw_rl import plots
from ztw_rl.errors import UserError
from ztw_rl.plots import plot_curve
from ztw_rl.rl.report.results import Method


def line(rule, threshold, mean, cost):
    return {
        "rule": rule,
        "threshold": threshold,
        "return_mean": mean,
        "return_ci_low": mean - 1,
        "return_ci_high": mean + 2,
        "relative_macs": cost,
        "relative_time": cost / 2,
    }


TABLE = pd.DataFrame(
    [
        line("confidence", 0.9, 20.0, 0.9),
        line("confidence", 0.1, 5.0, 0.4),
        line("random", 0.9, 8.0, 0.9),
        line("random", 0.1, 4.0, 0.4),
        line("forced", 0.0, 3.0, 0.376),
        line("forced", 1.0, 18.0, 1.04),
        line("backbone", None, 19.0, 1.0),
    ]
)


@pytest.fixture
def drawn(monkeypatch):
    """Keeps the figure that was drawn."""
    figures = []
    close = plt.close
    monkeypatch.setattr(plots.plt, "close", lambda figure: figures.append(figure))
    yield figures
    for figure in figures:
        close(figure)


def curves(axis):
    return {artist.get_label(): artist for artist in axis.get_lines()}


def test_the_points_are_the_tables(tmp_path, drawn):
    plot_curve(TABLE, "pong", "small print", tmp_path / "curve.png")
    (figure,) = drawn
    by_time, by_macs = figure.axes
    for axis, scale in ((by_time, 0.5), (by_macs, 1.0)):
        found = curves(axis)
        # In the order of the threshold, so that the line is a curve.
        assert found["confidence"].get_xdata().tolist() == [0.4 * scale, 0.9 * scale]
        assert found["confidence"].get_ydata().tolist() == [5, 20]
        (control,) = [line for label, line in found.items() if "random" in label]
        assert control.get_ydata().tolist() == [4, 8]
        assert list(found["backbone"].get_xdata()) == [1.0]
        texts = {text.get_text() for text in axis.texts}
        assert {"exit 0", "exit 1", "τ = 0.1", "τ = 0.9"} <= texts
    assert "time" in by_time.get_xlabel()
    assert "MACs" in by_macs.get_xlabel()


def test_patience_is_named_t(tmp_path, drawn):
    table = TABLE.assign(rule=TABLE["rule"].replace("confidence", "patience"))
    plot_curve(table, "pong", "", tmp_path / "curve.png")
    texts = {text.get_text() for text in drawn[0].axes[0].texts}
    assert {"t = 0.1", "t = 0.9"} <= texts
    assert "patience" in curves(drawn[0].axes[0])


def test_confidence_may_stand_beside_a_tables_own_rule(tmp_path, drawn):
    table = pd.concat([TABLE, pd.DataFrame([line("gate", t, 9.0, -t) for t in (-0.9, -0.4)])])
    plot_curve(table, "pong", "", tmp_path / "curve.png")
    found = curves(drawn[0].axes[1])
    # A gate's threshold falls where the cost rises.
    assert found["gate"].get_xdata().tolist() == [0.4, 0.9]
    assert found["confidence"].get_ydata().tolist() == [5.0, 20.0]
    assert found["gate"].get_color() != found["confidence"].get_color()


def test_a_picture_is_written_and_the_figure_closed(tmp_path):
    before = plt.get_fignums()
    plot_curve(TABLE, "pong", "", tmp_path / "deep" / "curve.png")
    assert (tmp_path / "deep" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == before
    assert mpl.get_backend().lower() == "agg"


def test_a_failure_leaves_neither_file_nor_figure(tmp_path, monkeypatch):
    path = tmp_path / "curve.png"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail)
    before = plt.get_fignums()
    with pytest.raises(UserError, match=r"cannot write to .*curve\.png: No space"):
        plot_curve(TABLE, "pong", "", path)
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
    assert path.read_text() == "old"
    assert plt.get_fignums() == before


def point(game, method, time, mean):
    return {
        "game": game,
        "method": method,
        "relative_time": time,
        "return_mean": mean,
        "return_std": 2.0,
    }


GAMES = pd.DataFrame(
    [
        point("pong", Method("ztw"), 0.9, 18.0),
        point("pong", Method("ztw"), 0.4, 12.0),
        point("pong", Method("backbone"), 1.0, 19.0),
        point("pong", Method("pbee"), 0.6, 14.0),
        point("breakout", Method("ztw"), 0.5, 200.0),
        point("breakout", Method("ztw", sampled=True), 0.5, 150.0),
        point("breakout", Method("backbone"), 1.0, 300.0),
    ]
)


def test_one_panel_per_game_one_line_per_method(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    plots.plot_games(GAMES, "small print", tmp_path / "games.png")
    (figure,) = drawn
    breakout, pong = figure.axes
    assert [axis.get_title() for axis in (breakout, pong)] == ["breakout", "pong"]
    lines = [line for line in pong.get_lines() if len(line.get_xdata()) == 2]
    # In the order of time, so that the line is a curve; and the dotted backbone.
    assert [0.4, 0.9] in [list(line.get_xdata()) for line in lines]
    assert [12, 18] in [list(line.get_ydata()) for line in lines]
    assert len(pong.containers) == 2  # error bars: the backbone, and PBEE's points
    (band,) = [c for c in pong.collections if hasattr(c, "get_hatch") and len(c.get_paths()) == 1][
        :1
    ]
    assert band.get_paths()[0].get_extents().ymax == 20
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {"ztw", "backbone", "pbee", "ztw, sampled"}
    assert "small print" in figure.get_supxlabel()


@pytest.mark.parametrize(("n", "grid"), [(1, (1, 1)), (4, (1, 4)), (5, (2, 3)), (8, (2, 4))])
def test_any_number_of_games_in_rows_of_equal_length(tmp_path, drawn, n, grid):
    one = GAMES[GAMES["game"] == "pong"]
    table = pd.concat([one.assign(game=f"game{i}") for i in range(n)])
    plots.plot_games(table, "", tmp_path / "games.png")
    assert drawn[0].axes[0].get_subplotspec().get_gridspec().get_geometry() == grid
    first = (tmp_path / "games.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    plots.plot_games(table, "", tmp_path / "games.png")
    assert (tmp_path / "games.png").read_bytes() == first


METHODS = [
    *(Method("backbone"), Method("backbone", sampled=True)),
    *map(Method, ("ztw", "cascade", "ensemble", "sdn", "pbee", "student")),
    *(Method("pbee", sampled=True), Method("ztw", sampled=True), Method("ztw", patient=True)),
    Method("ztw", exits=("input", "conv1", "conv2")),
    *(Method("ztw", exits=("conv1",)), Method("ztw", exits=("conv1",), sampled=True)),
]


@pytest.mark.parametrize("n", [1, 2, 8])
def test_all_variants_can_be_told_apart_and_the_legend_is_whole(tmp_path, drawn, n):
    table = pd.DataFrame(
        point(f"game{i}", method, 0.4 + t, 10.0 + t)
        for i in range(n)
        for method in METHODS
        for t in (0.0, 0.5)
    )
    plots.plot_games(table, "", tmp_path / "games.png")
    (figure,) = drawn
    (legend,) = figure.legends
    extent, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= extent.x0 < extent.x1 <= whole.x1
    assert whole.y0 <= extent.y0 < extent.y1 <= whole.y1
    assert [text.get_text() for text in legend.get_texts()] == list(map(str, METHODS))
    # Error bars have caps that are lines as well.
    lines = [a for a in figure.axes[0].get_lines() if a.get_marker() not in ("None", "_", "|")]
    looks = {
        (a.get_color(), a.get_marker(), a.get_linestyle(), a.get_markerfacecolor() == "white")
        for a in lines
    }
    assert len(looks) == len(lines) == len(METHODS)
