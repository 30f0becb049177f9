"""``ztw-rl report``: all agents' evaluation tables as one table and one figure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from ztw_rl import recipes, runs
from ztw_rl.commands._arguments import read

CSV, GAINS, POINTS = "games.csv", "gains.csv", "points.csv"
MARKDOWN = "games.md"
PNG, SAMPLED_PNG = "games.png", "games-sampled.png"
"""Returns of sampled actions lie too far from greedy ones to be read beside them."""


@dataclass(frozen=True)
class Report:
    """Put the agents of a folder side by side: what keeping the full policy's return costs.

    Reads each agent's curve.json, and curve-*.json of other methods that imitate the same policy;
    so too of its variants, which are agents in folders of its own. Where one of them is paper, the
    others are compared with it.
    Writes games.csv, gains.csv and games.md; curves in points.csv, games.png and, of sampled
    actions, games-sampled.png. The same tables give the same files.
    """

    agents: tyro.conf.Positional[Path] = Path("agents")
    """Folder of the agents' folders."""
    output: Path | None = None
    """Folder for the results; by default that of the agents."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl report --help``.

    Returns:
        0.

    Raises:
        UserError: An agent's folder is incomplete, or holds what belongs to another agent.
    """
    args = read(Report, arguments, "ztw-rl report")
    output = args.output or args.agents
    runs.check_writable(output)

    from ztw_rl.core.files import save_text
    from ztw_rl.plots import plot_games
    from ztw_rl.rl.report import gains, levels
    from ztw_rl.rl.report.controls import terms_note, with_controls, with_terms
    from ztw_rl.rl.report.points import figure_note, points_of
    from ztw_rl.rl.report.results import read_results

    results = read_results(args.agents, lambda game: recipes.load(game).random_return)
    entries = levels.levels(with_terms(with_controls(results)))
    points = points_of(results)
    leads = gains.as_frame(gains.gains(with_terms(results)))
    text = levels.as_markdown(entries, results) + gains.as_markdown(leads)
    text += terms_note(results)
    for name, frame in ((CSV, levels.as_frame(entries)), (POINTS, points), (GAINS, leads)):
        text_of = frame.to_csv(index=False, float_format="%.4f")
        save_text(output / name, text_of)
    save_text(output / MARKDOWN, text)
    sampled = points["method"].map(lambda method: method.sampled)
    pictures = {PNG: points[~sampled], SAMPLED_PNG: points[sampled]}
    shown = [name for name, own in pictures.items() if len(own)]
    for name in pictures:
        if name in shown:
            plot_games(pictures[name], figure_note(results), output / name)
        else:
            # An earlier report's would show what these tables do not say.
            (output / name).unlink(missing_ok=True)
    print(text)
    print(f"results: {output / CSV}, {GAINS}, {POINTS}, {MARKDOWN}, {', '.join(shown)}")
    return 0
