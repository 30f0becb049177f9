"""``ztw-rl eval``: return of an early-exit agent against what its decisions cost."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ztw_rl import agents, recipes, runs
from ztw_rl.atari.config import EvaluationConfig
from ztw_rl.atari.games import canonical
from ztw_rl.commands._arguments import parse, peek
from ztw_rl.commands._console import plain_console
from ztw_rl.commands._curve import CSV, JSON, PNG, EvalRun, kept_lines, screen, write
from ztw_rl.commands._games import reference_line
from ztw_rl.commands._resume import check_resumable
from ztw_rl.core.settings import require, require_seed
from ztw_rl.core.thresholds import parse_thresholds
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from ztw_rl.atari.agent import Agent
    from ztw_rl.atari.emulator_batch import EmulatorBatch
    from ztw_rl.atari.journal import Journal
    from ztw_rl.commands._unfinished import Begun

PROG = "ztw-rl eval"
KIND = "eval"
INTERRUPTED = 130


@dataclass(frozen=True)
class Eval:
    """Play full games with an early-exit agent at several thresholds, on raw points.

    Writes curve.csv, curve.json and curve.png: per threshold the return, what a decision cost,
    and how often each exit answered; beside it each exit forced alone, exits drawn at random in
    the same shares, and the backbone.
    """

    thresholds: str = "0.1:0.9"
    """start:stop or start:stop:step (stop included, step 0.1), or a comma list. With
    --rule patience: how many exits in a row must agree, such as 1,2,3."""
    rule: Literal["confidence", "patience"] = "confidence"
    """Leave when the highest probability exceeds the threshold, or when exits agree (PBEE)."""
    disagreement: bool = False
    """Ask the full model as well at every decision of the rule, and store in curve.json which
    share of each game's greedy actions differs: what --risk of export and bench chooses from."""
    agent: str | None = None
    """A shipped agent's name, an agent's folder or a distillation run; by default the newest
    distillation run, else the shipped agent."""
    ensembles: bool = True
    """--no-ensembles asks the ICs alone, fitted before the ensembles: of a ztw agent that is the
    cascade method, of an ensemble agent sdn."""
    backend: Literal["eager", "compiled", "onnx"] = "eager"
    """What runs the network, in the games and where a decision's relative_time is measured. onnx
    needs the extra of that name, compiled a C++ compiler."""
    output: Path | None = None
    """Folder for the results; by default a new one in runs/eval."""
    seed: int = 0
    """Game k of every row has seed + k."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    resume: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[FOLDER]")] = None
    """Go on with the evaluation that was stopped in this folder; without a value, with the run
    that was started or resumed last and was stopped."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    evaluation: tyro.conf.OmitArgPrefixes[EvaluationConfig] = field(
        default_factory=EvaluationConfig
    )
    """How many games, and how they are played."""

    def __post_init__(self) -> None:
        require_seed(self)
        here = self.backend != "onnx" or self.device in ("auto", "cpu")
        require(self, here, "device", "cpu with --backend onnx")


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl eval --help``.

    Returns:
        0, or 130 if the user stopped it.

    Raises:
        UserError: The command line, the agent or what is to be resumed has an error.
    """
    early = peek(arguments, "agent", "resume", "runs-dir")
    root = Path(early["runs-dir"] or "runs")
    if early["resume"] is not None:
        return _resume(arguments, Path(early["resume"]) if early["resume"] else _newest(root))

    def find() -> Path:
        return agents.find(early["agent"] or None, root)

    args = parse(
        Eval,
        arguments,
        PROG,
        lambda: Eval(evaluation=recipes.load(agents.stored_atari(find()).game).evaluation),
    )
    folder = find()
    thresholds = parse_thresholds(args.thresholds)
    if args.rule == "patience" and any(t < 1 or t != int(t) for t in thresholds):
        raise UserError(f"--thresholds {args.thresholds}: patience counts exits, such as 1,2,3")
    runs.check_writable(args.output or args.runs_dir / KIND)
    return _start(args, folder, thresholds)


def _start(args: Eval, folder: Path, thresholds: list[float]) -> int:
    """Time the exits and play, in a new folder."""
    from ztw_rl.commands import _playing, _unfinished
    from ztw_rl.core.device import exact_device

    if args.output is not None:
        _unfinished.check_free(args.output)
    run = EvalRun(
        agent=str(folder),
        thresholds=tuple(thresholds),
        rule=args.rule,
        disagreement=args.disagreement,
        ensembles=args.ensembles,
        seed=args.seed,
        evaluation=args.evaluation,
        backend=args.backend,
        device=str(exact_device("cpu" if args.backend == "onnx" else args.device)),
    )
    agent = _playing.load(folder, args.ensembles)
    with _playing.emulators_for(run, agent) as batches:
        begun = _unfinished.Begun(run, agent.identity(), _playing.time(agent, run.backend))
        game = canonical(agent.config.atari.game)
        output = args.output or runs.create(args.runs_dir, KIND, game, run)
        return _finish(begun, agent, batches, output, _unfinished.begin(output, begun))


def _resume(arguments: list[str], output: Path) -> int:
    """Go on where an evaluation was stopped."""
    from ztw_rl.commands import _playing, _unfinished
    from ztw_rl.core.device import exact_device

    begun, journal = _unfinished.reopen(output)
    run = begun.run
    stored = Eval(
        thresholds=_spelled(run.thresholds),
        rule=run.rule,
        disagreement=run.disagreement,
        agent=run.agent,
        ensembles=run.ensembles,
        backend=run.backend,
        seed=run.seed,
        evaluation=run.evaluation,
    )
    args = parse(Eval, arguments, PROG, lambda: stored)
    wanted = replace(args, thresholds=_spelled(parse_thresholds(args.thresholds)))
    check_resumable(
        output,
        args.resume,
        stored,
        wanted,
        changeable=("evaluation.n_envs",),
        unprefixed=("evaluation",),
    )
    device = exact_device("cpu" if run.backend == "onnx" else args.device)
    run = replace(run, device=str(device), evaluation=args.evaluation)
    agent = _playing.load(Path(run.agent), run.ensembles)
    _unfinished.check_agent(output, begun, agent)
    with _playing.emulators_for(run, agent) as batches:
        if (output / runs.CONFIG).exists():
            runs.save_config(output, run)
        return _finish(replace(begun, run=run), agent, batches, output, journal)


def _newest(root: Path) -> Path:
    from ztw_rl.commands._unfinished import JOURNAL

    found = runs.newest(root, KIND, holding=JOURNAL)
    if found is None:
        raise UserError(f"no evaluation was stopped in {root / KIND}; begin with: ztw-rl eval")
    return found


def _spelled(thresholds: Sequence[float]) -> str:
    return ",".join(map(repr, thresholds))


def _finish(
    begun: Begun, agent: Agent, batches: Sequence[EmulatorBatch], output: Path, journal: Journal
) -> int:
    """Play what has not been played yet, print and write."""
    import torch

    from ztw_rl.atari.evaluate import table
    from ztw_rl.commands import _playing

    console = plain_console()
    run, times = begun.run, begun.times
    try:
        results = _playing.play(run, agent, batches, torch.device(run.device), journal, console)
    except KeyboardInterrupt:
        total = _playing.n_games(run, agent)
        again = ["ztw-rl", "eval", "--resume", str(output)]
        print(f"stopped after {len(journal)} of {total} games; go on with: {shlex.join(again)}")
        return INTERRUPTED
    costs = agent.relative_macs()
    frame = table(results, costs, times.relative)
    write(output, agent, run, frame, results, costs, times)
    journal.path.unlink()
    game = canonical(agent.config.atari.game)
    print(f"agent: {run.agent}")
    console.print(screen(frame, game))
    recipe = recipes.load(game)
    for line in kept_lines(output / JSON, recipe.random_return):
        print(line)
    if recipe.reference_return is not None:
        print(reference_line(game, recipe.reference_return))
    print(f"times: {times.backend}, one thread; results: {output}/{CSV}, {JSON}")
    if not agent.is_student:
        print(f"picture: {output}/{PNG}")
    return 0
