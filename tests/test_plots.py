from __future__ import annotations

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from ztw_rl import plots
from ztw_rl.plots import plot_curve


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
    with pytest.raises(OSError, match="No space"):
        plot_curve(TABLE, "pong", "", path)
    assert [p.name for p in tmp_path.iterdir()] == ["curve.png"]
    assert path.read_text() == "old"
    assert plt.get_fignums() == before
