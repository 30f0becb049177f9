"""``ztw-rl eval``: return of an early-exit agent against what its decisions cost."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ztw_rl import agents, recipes, runs
from ztw_rl.commands._arguments import (
    check_resumable,
    help_first,
    parse,
    parse_thresholds,
    peek,
    read,
)
from ztw_rl.commands._games import few_distinct_lines, reference_line, starts_lines
from ztw_rl.console import decimals, next_line, plain_console
from ztw_rl.core.backends.names import ON_CPU, BackendName
from ztw_rl.errors import INTERRUPTED, UserError
from ztw_rl.rl.config import CSV, JOURNAL, JSON, PNG, EvalRun, EvaluationConfig
from ztw_rl.rl.environments import noop_max_of
from ztw_rl.settings import Ranged, Seed, require

if TYPE_CHECKING:
    import pandas as pd

    from ztw_rl.commands._playing import Begun
    from ztw_rl.rl.agent import Agent
    from ztw_rl.rl.batch import EnvBatch
    from ztw_rl.rl.journal import Journal
    from ztw_rl.rl.rows import AdaptiveName
    from ztw_rl.rl.tables import StoredTable

PROG = "ztw-rl eval"
KIND = "eval"
DEFAULT_THRESHOLDS = "0.1:0.9"


@dataclass(frozen=True)
class Eval(Ranged):
    """Play full games with an early-exit agent at several thresholds, on raw points.

    Writes curve.csv, curve.json and curve.png: per threshold the return, what a decision cost,
    and how often each exit answered; beside it each exit forced alone, exits drawn at random in
    the same shares, with --costs confidence at the same costs, and the backbone.
    """

    thresholds: str | None = None
    """start:stop or start:stop:step (stop included, step 0.1), or a comma list; by default
    0.1:0.9. With --rule patience: how many exits in a row must agree, such as 1,2,3."""
    costs: str | None = None
    """In place of thresholds: mean costs of a decision, the full network's being 1, such as
    0.3:0.9:0.1 or a comma list. Thresholds that realise them are found on other games, and
    confidence is played at the same costs."""
    rule: Literal["confidence", "margin", "gate", "patience"] | None = None
    """Leave when the highest probability exceeds the threshold; when it exceeds the second highest
    by more; when a gate predicts less regret than the threshold; or when exits agree (PBEE). By
    default gate with --costs, else confidence."""
    disagreement: bool = False
    """Ask the full model as well at every decision of the rule, and store in curve.json which
    share of each game's greedy actions differs: what --risk of export and bench chooses from."""
    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    ensembles: bool = True
    """--no-ensembles asks the ICs alone, fitted before the ensembles: of a ztw agent that is the
    cascade method, of an ensemble agent sdn."""
    backend: BackendName = "eager"
    """What runs the network, in the games and where a decision's relative_time is measured. onnx
    and litert need the extras of their names, compiled a C++ compiler."""
    output: Path | None = None
    """Folder for the results, without another evaluation's; by default a new one in runs/eval."""
    seed: Seed = 0
    """Game k of every row has seed + k."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    resume: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[FOLDER]")] = None
    """Go on with the evaluation that was stopped in this folder; without a value, in --output, or
    with the run that was started or resumed last and has not ended."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(
        default_factory=EvaluationConfig
    )
    """How many games, and how they are played."""

    def __post_init__(self) -> None:
        super().__post_init__()
        here = self.backend not in ON_CPU or self.device in ("auto", "cpu")
        require(self, here, "device", f"cpu with --backend {self.backend}")


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl eval --help``.

    Returns:
        0, or 130 if the user stopped it.

    Raises:
        UserError: The command line, the agent or what is to be resumed has an error.
    """
    early = peek(arguments, "agent", "output", "resume", "runs-dir")
    root = Path(early["runs-dir"] or "runs")
    if early["resume"] is not None:
        return _resume(arguments, early["resume"] or early["output"], root)

    def find() -> Path:
        return agents.find(early["agent"], root)

    args = parse(
        Eval,
        arguments,
        PROG,
        lambda: Eval(evaluation=recipes.of(agents.stored_environment(find())).evaluation),
    )
    folder = find()
    rule = args.rule or ("confidence" if args.costs is None else "gate")
    numbers = _numbers(args, rule)
    runs.check_writable(args.output or args.runs_dir / KIND)
    return _start(args, folder, rule, numbers)


def _numbers(args: Eval, rule: AdaptiveName) -> list[float]:
    """Thresholds or costs, checked as far as they can be without the agent.

    Raises:
        UserError: They make no sense.
    """
    if args.costs is not None:
        if args.thresholds is not None:
            raise UserError("--thresholds and --costs exclude one another; give one")
        if rule == "patience":
            raise UserError("--costs cannot be realised by --rule patience, which counts exits")
        return parse_thresholds(args.costs, "costs")
    given = args.thresholds
    if given is None and rule == "gate":
        raise UserError("--rule gate needs --costs, such as 0.4:0.9:0.1, or --thresholds of regret")
    if given is None and rule == "patience":
        raise UserError("--rule patience needs --thresholds, numbers of exits such as 1,2,3")
    thresholds = parse_thresholds(
        DEFAULT_THRESHOLDS if given is None else given, negative=rule == "gate"
    )
    if rule in ("confidence", "margin") and max(thresholds) > 1:
        raise UserError(
            f"--thresholds {given}: a {rule} lies between 0 and 1, such as 0.5; at 1 no exit "
            "answers before the last"
        )
    if rule == "patience" and any(t < 1 or t != int(t) for t in thresholds):
        raise UserError(f"--thresholds {given}: patience counts exits, such as 1,2,3")
    return thresholds


def _start(args: Eval, folder: Path, rule: AdaptiveName, numbers: list[float]) -> int:
    """Time the exits and play, in a new folder."""
    import torch

    from ztw_rl.commands import _costs, _playing
    from ztw_rl.core.device import exact_device

    if args.output is not None:
        _playing.check_free(args.output)
    run = EvalRun(
        agent=str(folder),
        thresholds=tuple(numbers) if args.costs is None else (),
        costs=() if args.costs is None else tuple(numbers),
        rule=rule,
        disagreement=args.disagreement,
        ensembles=args.ensembles,
        seed=args.seed,
        evaluation=args.evaluation,
        backend=args.backend,
        device=str(exact_device("cpu" if args.backend in ON_CPU else args.device)),
    )
    agent = _playing.load(folder, args.ensembles)
    if not agent.has_exits:
        _check_student(args, folder)
    judged = _playing.judged(agent, folder, run)
    with _playing.emulators_for(run, agent) as batches:
        if run.costs:
            device = torch.device(run.device)
            run = _costs.calibrated(run, agent, batches, device, plain_console(stderr=True))
        begun = _playing.Begun(
            run=run,
            output=None if args.output is None else str(args.output),
            agent=agent.config,
            identity=judged.identity(),
            times=_playing.time(agent, run.backend),
            judged_times=None if judged is agent else _playing.time(judged, run.backend),
        )
        name = agent.config.environment.name
        output = args.output or runs.create(args.runs_dir, KIND, name, run)
        with _playing.begin(output, begun) as journal:
            return _finish(begun, agent, batches, output, journal)


def _check_student(args: Eval, folder: Path) -> None:
    """A student answers everything itself.

    Raises:
        UserError: A flag asks for what only exits can do.
    """
    asked = {
        "--thresholds": args.thresholds is not None,
        "--costs": args.costs is not None,
        f"--rule {args.rule}": args.rule is not None,
        "--disagreement": args.disagreement,
    }
    for flag, is_given in asked.items():
        if is_given:
            raise UserError(f"{folder} is a student, which has no exits; leave out {flag}")


def _resume(arguments: list[str], named: str | None, root: Path) -> int:
    """Go on where an evaluation was stopped."""
    from ztw_rl.commands import _playing
    from ztw_rl.core.device import exact_device

    with help_first(Eval, arguments, PROG):
        output = Path(named) if named else _newest(root)
        begun, journal = _playing.reopen(output)
    with journal:
        run = begun.run
        stored = Eval(
            thresholds=None if run.costs else _spelled(run.thresholds),
            costs=_spelled(run.costs) if run.costs else None,
            rule=run.rule,
            disagreement=run.disagreement,
            agent=run.agent,
            ensembles=run.ensembles,
            backend=run.backend,
            output=None if begun.output is None else Path(begun.output),
            seed=run.seed,
            device=run.device,
            evaluation=run.evaluation,
        )
        args = read(Eval, arguments, PROG, stored)
        wanted = replace(
            args,
            thresholds=_respelled(args.thresholds, run),
            costs=_respelled(args.costs, run),
        )
        check_resumable(
            output, args.resume, stored, wanted, changeable=("agent",), unprefixed=("evaluation",)
        )
        moved = args.agent != run.agent
        folder = agents.find(args.agent, root) if moved else Path(run.agent)
        if not folder.is_dir():
            raise UserError(f"there is no {folder}, which {output} plays; say --agent where it is")
        agent = _playing.load(folder, run.ensembles)
        _playing.check_agent(journal, begun, folder, _playing.judged(agent, folder, run))
        run = replace(run, agent=str(folder), device=str(exact_device(args.device)))
        with _playing.emulators_for(run, agent) as batches:
            if begun.output is None:
                runs.save_config(output, run)
            return _finish(replace(begun, run=run), agent, batches, output, journal)


def _newest(root: Path) -> Path:
    found = runs.newest(root, KIND, holding=JOURNAL)
    if found is None:
        raise UserError(f"no evaluation was stopped in {root / KIND}; begin with: ztw-rl eval")
    return found


def _respelled(text: str | None, run: EvalRun) -> str | None:
    return None if text is None else _spelled(parse_thresholds(text, negative=run.rule == "gate"))


def _spelled(thresholds: Sequence[float]) -> str:
    return ",".join(map(repr, thresholds))


def _finish(
    begun: Begun, agent: Agent, batches: Sequence[EnvBatch], output: Path, journal: Journal
) -> int:
    """Play what has not been played yet, print and write."""
    import torch

    from ztw_rl.commands import _costs, _playing
    from ztw_rl.rl.tables import game_keys, save_table

    console = plain_console()
    run, times, config = begun.run, begun.by_rule(), agent.config
    recipe = recipes.of(config.environment)
    random = recipe.random_return
    print(f"agent: {run.agent}", flush=True)
    device = torch.device(run.device)
    try:
        # Journals of former versions know no slopes.
        if run.slopes:
            run = _costs.settled(run, agent, batches, device, journal, plain_console(stderr=True))
        results = _playing.play(run, agent, batches, device, journal, console)
        if random is None:
            random = _playing.random_return(run, batches)
        known = recipe.random_return is not None
        table, frame = save_table(output, agent, run, results, times, None if known else random)
        if agent.has_exits:
            _picture(run, frame, table, output / PNG, config.atari is not None)
    except KeyboardInterrupt:
        total, done = _playing.n_games(run, agent), journal.n_of(run)
        again = ["ztw-rl", "eval", "--resume", str(output)]
        print(f"stopped after {done} of {total} games; go on with: {shlex.join(again)}")
        return INTERRUPTED
    journal.remove()
    game = config.environment.name
    console.print(_screen(frame, game, config.exits))
    kept = _kept_lines(table, random)
    for line in (*kept, *_headroom_lines(table, random)):
        print(line)
    # Elsewhere many games may score alike and differ.
    if table.backbone is not None and config.atari is not None:
        games = game_keys(table.backbone, table.rows)
        for line in few_distinct_lines(games, "return, length and cost", is_sticky=True):
            print(line)
    if recipe.reference_return is not None:
        print(reference_line(game, recipe.reference_return))
    if not known:
        shown = f"{random:,.{decimals(random)}f}"
        print(f"random play scores {shown} in {_playing.RANDOM_GAMES} games")
    trained = (config.policy_noop_max, noop_max_of(config.environment))
    if config.atari is not None:
        for line in starts_lines(trained, run.evaluation.noop_max):
            print(line)
    print(f"times: {begun.times.backend}, one thread; results: {output}/{CSV}, {JSON}")
    if agent.has_exits:
        print(f"picture: {output}/{PNG}")
    greedy = run.evaluation.action_mode == "greedy"
    if run.evaluation.n_episodes < EvaluationConfig.n_episodes:
        more = ("--agent", run.agent, *table.flags, "--n-episodes", "30")
        print(next_line("ztw-rl", "eval", *more))
    elif kept and run.rule != "patience" and greedy and run.ensembles:
        chosen_from = ("--keep", "0.95", "--calibration", str(output))
        print(next_line("ztw-rl", "export", "--agent", run.agent, *chosen_from))
    return 0


def _picture(
    run: EvalRun, frame: pd.DataFrame, table: StoredTable, path: Path, of_a_game: bool
) -> None:
    """Return against cost."""
    from ztw_rl.plots import plot_curve

    settings = run.evaluation
    starts = f", noop_max {settings.noop_max}" if of_a_game else ""
    note = (
        f"{settings.n_episodes} full games per point, {settings.action_mode} actions, seeds from "
        f"{run.seed}{starts}; bands: 95 % bootstrap over episodes "
        f"(evaluation noise only); time: {table.backend}, one thread"
    )
    plot_curve(frame, f"{table.game}: return against inference cost", note, path)


def _kept_lines(table: StoredTable, random_return: float | None) -> list[str]:
    """What keeping each share of ``KEEP`` costs, in words; nothing where that cannot be told.

    Args:
        table: ``curve.json``.
        random_return: Mean return of random play, if the recipe knows it.
    """
    from ztw_rl.core.choice import KEEP, Keep, expected
    from ztw_rl.rl.tables import trial_of

    if random_return is None or table.backbone is None:
        return []
    trial = trial_of(table, random_return)
    if len(trial) < EvaluationConfig.n_episodes:
        few = f"{len(trial)} games are too few to tell what keeping a share of the return costs"
        return [f"{few}; play more with --n-episodes"]
    lines = []
    for keep in KEEP:
        found = expected(Keep(keep), trial)
        if found is None or found.kept is None:  # too few games, or no better than random play
            break
        lines.append(
            f"to keep {keep:.0%} of the backbone's return over random play: {found.cost:.3f} of "
            f"its MACs, {found.kept:.1%} kept (chosen and reported on different games)"
        )
    return lines


def _headroom_lines(table: StoredTable, random_return: float) -> list[str]:
    """What the rule wins over random exits, of a table at given costs."""
    from ztw_rl.rl.report.headroom import lines, of_table

    if not table.costs or table.backbone is None or table.backbone.mean <= random_return:
        return []
    return lines(of_table(table, random_return))


def _screen(frame: pd.DataFrame, game: str, exits: Sequence[str]) -> Any:
    """The table for the terminal.

    Args:
        frame: The table.
        game: Whose title it gets.
        exits: Where the ICs are.
    """
    import pandas as pd
    from rich.box import SIMPLE
    from rich.table import Table

    shares = [c for c in frame.columns if c.startswith("exit_share_")]
    places = [f"x{m}: {place}" for m, place in enumerate([*exits, "the policy"])]
    shown = Table(
        title=f"{game}: full games on raw points",
        caption="at: threshold, or the exit forced; MACs and time of a decision: the backbone's "
        "are 1; share of decisions that each exit took, " + ", ".join(places),
        box=SIMPLE,
        padding=0,
        pad_edge=False,
    )
    heads = ["rule", "at", "mean", "std", "IQM", "95 %", "MACs", "time"]
    for head in [*heads, *(f"x{m}" for m in range(len(shares)))]:
        shown.add_column(head, justify="left" if head == "rule" else "right", no_wrap=True)
    previous, d = None, decimals(*frame["return_mean"])
    for _, row in frame.iterrows():
        if previous not in (None, row["rule"]):
            shown.add_section()
        previous = row["rule"]
        threshold = "" if pd.isna(row["threshold"]) else f"{row['threshold']:g}"
        shown.add_row(
            row["rule"],
            threshold,
            *(f"{row[f'return_{name}']:.{d}f}" for name in ("mean", "std", "iqm")),
            f"{row['return_ci_low']:.{d}f}…{row['return_ci_high']:.{d}f}",
            *(f"{row[cost]:.3f}" for cost in ("relative_macs", "relative_time")),
            *(f"{row[share]:.0%}" for share in shares),
        )
    return shown
