"""``ztw-rl eval``: return of an early-exit agent against what its decisions cost."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from ztw_rl import agents, recipes, runs
from ztw_rl.atari.config import EvaluationConfig
from ztw_rl.atari.games import canonical
from ztw_rl.commands._arguments import parse, peek
from ztw_rl.commands._console import plain_console
from ztw_rl.commands._curve import CSV, JSON, PNG, EvalRun, kept_lines, screen, write
from ztw_rl.commands._games import counted_games, reference_line
from ztw_rl.core.settings import require, require_seed
from ztw_rl.core.thresholds import parse_thresholds
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ztw_rl.atari.agent import Agent
    from ztw_rl.atari.evaluate import RowResult
    from ztw_rl.core.backends.backend import Backend
    from ztw_rl.core.timing import ExitTimes

KIND = "eval"


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
        0.

    Raises:
        UserError: The command line or the agent has an error.
    """
    early = peek(arguments, "agent", "runs-dir")

    def find() -> Path:
        return agents.find(early["agent"] or None, Path(early["runs-dir"] or "runs"))

    args = parse(
        Eval,
        arguments,
        "ztw-rl eval",
        lambda: Eval(evaluation=recipes.load(agents.stored_atari(find()).game).evaluation),
    )
    folder = find()
    thresholds = parse_thresholds(args.thresholds)
    if args.rule == "patience" and any(t < 1 or t != int(t) for t in thresholds):
        raise UserError(f"--thresholds {args.thresholds}: patience counts exits, such as 1,2,3")
    runs.check_writable(args.output or args.runs_dir / KIND)
    return _evaluate(args, folder, thresholds)


def _evaluate(args: Eval, folder: Path, thresholds: list[float]) -> int:
    """Play, time, print and write."""
    from ztw_rl.atari.agent import load_agent
    from ztw_rl.atari.evaluate import table
    from ztw_rl.core.device import exact_device, n_network_threads
    from ztw_rl.core.runtime import make_backend

    console = plain_console()
    device = exact_device("cpu" if args.backend == "onnx" else args.device)
    agent = load_agent(folder)
    if not args.ensembles:
        agent = _bare(agent, folder)
    x = agent.example()
    backend = make_backend(args.backend, agent.model, x)
    costs, times = agent.relative_macs(), _time(agent, backend, args.backend)
    if device.type != "cpu" or n_network_threads() > 1:
        # Times are those of one thread of the CPU.
        model = agent.model.to(device)
        backend = make_backend(args.backend, model, x.to(device), n_network_threads())
    results = _play(args, folder, agent, backend, thresholds, device, console)
    frame = table(results, costs, times.relative)
    run = EvalRun(
        agent=str(folder),
        thresholds=tuple(thresholds),
        rule=args.rule,
        disagreement=args.disagreement,
        ensembles=args.ensembles,
        seed=args.seed,
        evaluation=args.evaluation,
        backend=args.backend,
        device=str(device),
    )
    game = canonical(agent.config.atari.game)
    output = args.output or runs.create(args.runs_dir, KIND, game, run)
    write(output, agent, run, frame, results, costs, times)
    print(f"agent: {folder}")
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


def _bare(agent: Agent, folder: Path) -> Agent:
    """The agent without its ensembles."""
    try:
        return agent.without_ensembles()
    except ValueError:
        method = agent.config.method
        raise UserError(f"{folder} is {method}, without ensembles; leave out --no-ensembles") from (
            None
        )


def _time(agent: Agent, backend: Backend, name: str) -> ExitTimes:
    """Times per exit, before any game keeps the processor busy."""
    from ztw_rl.atari.backbone import policy_alone
    from ztw_rl.core.runtime import make_backend
    from ztw_rl.core.timing import time_exits

    full, x = backend, agent.example()
    if agent.is_student:
        # How long a network takes does not depend on its weights.
        full = make_backend(name, policy_alone(agent.config.n_actions).eval(), x)
    return time_exits(backend, x, full)


def _play(
    args: Eval,
    folder: Path,
    agent: Agent,
    backend: Backend,
    thresholds: list[float],
    device: Any,
    console: Console,
) -> list[RowResult]:
    """Play the agent's table; of a student, its single row."""
    from ztw_rl.atari.evaluate import evaluate, n_games, play
    from ztw_rl.atari.make_emulators import make_batches
    from ztw_rl.atari.seats import Row

    settings = args.evaluation
    total = settings.n_episodes
    if not agent.is_student:
        total = n_games(len(thresholds), agent.model.n_exits, settings.n_episodes)
    batches = make_batches(agent.config.atari, min(settings.n_envs, total))
    try:
        n_actions = int(batches[0].action_space.n)
        if n_actions != agent.config.n_actions:
            raise UserError(
                f"{folder / agents.CONFIG_FILE}: the agent has {agent.config.n_actions} actions, "
                f"but {agent.config.atari.game} has {n_actions}; these are another game's weights"
            )
        with counted_games(total, console) as count:
            how: dict[str, Any] = {
                "n_episodes": settings.n_episodes,
                "seed": args.seed,
                "action_mode": settings.action_mode,
                "device": device,
                "on_game": count,
            }
            if agent.is_student:
                (whole,) = play(backend, batches, [Row("backbone")], **how)
                return [replace(whole, row=Row("student"))]
            return evaluate(
                backend, batches, thresholds, rule=args.rule, compared=args.disagreement, **how
            )
    finally:
        for emulators in batches:
            emulators.close()
