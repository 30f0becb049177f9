"""``ztw-rl distill-ics``: fit internal classifiers (ICs) to a trained policy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ztw_rl import agents, recipes, runs
from ztw_rl.commands._arguments import check_resumable, help_first, peek, read
from ztw_rl.commands._environment import flags_of
from ztw_rl.commands._policy import (
    TEACHER_FILE,
    PolicyArguments,
    is_zip,
    load_teacher,
    parse_with_policy,
)
from ztw_rl.console import decimals, next_line, plain_console
from ztw_rl.errors import INTERRUPTED, UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.config import GATE_TIMESTEPS, DistillConfig, MethodName
from ztw_rl.rl.environments import Environment, InEnvironment, make_batch, placed
from ztw_rl.rl.networks.config import NetworkConfig
from ztw_rl.settings import Ranged, Seed

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ztw_rl.core.model import EarlyExitModel
    from ztw_rl.rl.agent import Agent
    from ztw_rl.rl.batch import EnvBatch
    from ztw_rl.rl.teacher import Teacher


@dataclass(frozen=True)
class DistillRun(InEnvironment):
    """Resolved settings, saved beside the weights."""

    seed: Seed
    policy: str
    distill: DistillConfig
    network: NetworkConfig = field(default_factory=NetworkConfig)
    """The policy's layers."""
    ppo_timesteps: int | None = None
    ppo_seed: int | None = None
    imported_from: str | None = None
    ppo_noop_max: int | None = None
    ics: str | None = None
    """Folder of the agent whose ICs and ensembles stay as they are."""
    distill_timesteps: int | None = None
    """Environment steps of each phase behind those."""
    distill_seed: int | None = None


def made_agent(run: DistillRun, teacher: Teacher, model: EarlyExitModel) -> Agent:
    """The agent that a finished distillation leaves; a student stands on its own."""
    from ztw_rl.rl.agent import AgentConfig, agent_of, policy_fingerprint
    from ztw_rl.rl.student import Student, student_of

    provenance = replace(
        teacher.provenance,
        distill_timesteps=run.distill_timesteps if run.ics else run.distill.n_timesteps,
        distill_seed=run.distill_seed if run.ics else run.seed,
    )
    config = AgentConfig(
        n_actions=teacher.n_actions,
        exits=run.distill.exits or teacher.network.default_exits,
        method=run.distill.method,
        provenance=provenance,
        network=teacher.network,
        gates=run.distill.gate_names,
        pixel_head=run.distill.pixel_head,
        **placed(run.environment),
    )
    if not isinstance(model.ics[0], Student):
        return agent_of(config, model)
    student = student_of(model)
    config = replace(
        config,
        exits=(),
        student_of=run.distill.student_of,
        gates=(),
        network=replace(teacher.network, widths=student.widths),
        provenance=replace(provenance, teacher=policy_fingerprint(teacher.parameters)),
    )
    return agent_of(config, student.policy)


PROG = "ztw-rl distill-ics"
KIND = "distill"
IMPORT_GAMES = 5
ICS_FILE = "ics.safetensors"
OF_THE_AGENT = (
    *("--policy", "--method", "--distill.method", "--distill.exits", "--distill.student-of"),
    *("--distill.n-timesteps", "--distill.n-epochs", "--distill.behaviour"),
    *("--distill.ic-batch-size", "--distill.ensemble-batch-size", "--distill.action-mode"),
    *("--distill.learning-rates", "--distill.pixel-learning-rates", "--distill.milestones"),
)
"""What an agent says itself whose gates alone are fitted, and what only its ICs would read."""


@dataclass(frozen=True)
class DistillICs(PolicyArguments, Ranged):
    """Fit internal classifiers and their ensembles to a trained policy, by playing.

    The result is an early-exit agent, in the run folder's agent/.
    """

    method: MethodName | None = None
    """Short for --distill.method."""
    ics: Path | None = None
    """In place of a policy: an agent whose policy, ICs and ensembles stay as they are. Gates are
    all that is fitted."""
    seed: Seed = 0
    """Of games, initial weights, draws and minibatches."""
    resume: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[RUN]")] = None
    """Go on with this run folder; without a value, with the run started or resumed last that
    has a checkpoint."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    """Distillation."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl distill-ics --help``.

    Returns:
        0, or 130 if the user stopped it.

    Raises:
        UserError: The command line, the policy or the run to resume has an error.
    """
    early = peek(arguments, "resume", "runs-dir", "ics")
    if early["resume"] is not None:
        named, root = early["resume"], Path(early["runs-dir"] or "runs")
        with help_first(DistillICs, arguments, PROG):
            run_dir = Path(named) if named else _newest(root)
            stored = runs.load_config(DistillRun, run_dir)
        default = DistillICs(
            policy=Path(stored.policy),
            ics=None if stored.ics is None else Path(stored.ics),
            seed=stored.seed,
            distill=stored.distill,
            **flags_of(stored.environment),
        )
        args = _full(read(DistillICs, arguments, PROG, default))
        played = stored.environment.name
        if args.env and recipes.load(args.env).environment.name != played:
            raise UserError(f"{run_dir} plays {played}, not {args.env}; leave out --env")
        check_resumable(run_dir, args.resume, default, replace(args, env=None))
        return _go_on(run_dir, stored, args)

    if early["ics"] is not None:
        taken = [a for a in arguments if a.split("=")[0] in OF_THE_AGENT]
        if taken:
            raise UserError(f"--ics takes an agent as it is; leave out {taken[0]}")
        arguments = [*arguments, "--policy", early["ics"]]
    args, policy, environment = parse_with_policy(
        DistillICs,
        arguments,
        PROG,
        lambda r: DistillICs(distill=r.distill, **flags_of(r.environment)),
    )
    args = _full(args)
    if args.ics is not None:
        args = _of_agent(args, policy)
    runs.check_writable(args.runs_dir / KIND)
    return _start(args, policy, environment)


def _of_agent(args: DistillICs, folder: Path) -> DistillICs:
    """The same with the method and the exits of the agent whose gates are fitted.

    Raises:
        UserError: It has no exits, or no gates are wanted.
    """
    from ztw_rl.rl.agent import load_agent

    config = load_agent(agents.find(str(folder), args.runs_dir)).config
    if args.distill.gates == "none":
        raise UserError("--ics fits gates alone; leave out --distill.gates none")
    distill = replace(
        args.distill,
        method=config.method,
        exits=config.exits or None,
        pixel_head=config.pixel_head,
        gate_timesteps=args.distill.gate_timesteps or GATE_TIMESTEPS,
    )
    return replace(args, distill=distill)


def _full(args: DistillICs) -> DistillICs:
    """The same with --method written out."""
    if args.method is None:
        return args
    return replace(args, method=None, distill=replace(args.distill, method=args.method))


def _newest(root: Path) -> Path:
    found = runs.newest(root, KIND, holding=runs.CHECKPOINT)
    if found is None:
        raise UserError(
            f"there is no run with a checkpoint in {root / KIND}; begin with: ztw-rl distill-ics"
        )
    return found


def _start(args: DistillICs, policy: Path, environment: Environment) -> int:
    """Distil in a new run folder."""
    from ztw_rl.core.checkpoint import save_tensors
    from ztw_rl.core.device import exact_device
    from ztw_rl.rl.distill import build_early_exit_model

    exact_device(args.device)
    teacher = load_teacher(args, policy, environment, args.distill.temperature)
    # Exits that do not exist show here, before there is a run folder.
    build_early_exit_model(teacher, args.distill)
    with _games(teacher, args.distill.n_envs) as emulators:
        console = plain_console(stderr=True)
        if is_zip(policy):
            _show_imported(teacher, emulators, args, console)
        run = DistillRun(
            seed=args.seed,
            policy=str(policy),
            distill=replace(
                args.distill, exits=args.distill.exits or teacher.network.default_exits
            ),
            network=teacher.network,
            ppo_timesteps=teacher.provenance.ppo_timesteps,
            ppo_seed=teacher.provenance.ppo_seed,
            imported_from=teacher.provenance.imported_from,
            ppo_noop_max=teacher.provenance.ppo_noop_max,
            ics=None if args.ics is None else str(args.ics),
            distill_timesteps=teacher.provenance.distill_timesteps,
            distill_seed=teacher.provenance.distill_seed,
            **placed(environment),
        )
        run_dir = runs.create(args.runs_dir, KIND, environment.name, run)
        with runs.claimed(run_dir):
            save_tensors(run_dir / TEACHER_FILE, teacher.parameters)
            if args.ics is not None:
                save_tensors(run_dir / ICS_FILE, _fitted(args.ics, args.runs_dir))
            console.print(f"distilling {policy} in {run_dir}", soft_wrap=True)
            return _distill(run_dir, run, teacher, emulators, args, console, resume=False)


def _fitted(folder: Path, runs_dir: Path) -> dict[str, Tensor]:
    """An agent's parameters but for its gates."""
    from ztw_rl.rl.agent import GATES, load_agent

    weights = load_agent(agents.find(str(folder), runs_dir)).model.state_dict()
    return {name: tensor for name, tensor in weights.items() if not name.startswith(GATES)}


def _go_on(run_dir: Path, run: DistillRun, args: DistillICs) -> int:
    """Go on with the teacher that the run began with, whatever its source has become."""
    from ztw_rl.core.checkpoint import load_tensors, newest_checkpoint
    from ztw_rl.rl.agent import Provenance
    from ztw_rl.rl.teacher import Teacher

    newest_checkpoint(run_dir)
    provenance = Provenance(
        run.ppo_timesteps, run.ppo_seed, run.imported_from, ppo_noop_max=run.ppo_noop_max
    )
    tensors = load_tensors(run_dir / TEACHER_FILE)
    teacher = Teacher(tensors, run.environment, run.network, provenance)
    with runs.claimed(run_dir), _games(teacher, run.distill.n_envs) as emulators:
        runs.save_config(run_dir, run)
        console = plain_console(stderr=True)
        console.print(f"going on in {run_dir}", soft_wrap=True)
        return _distill(run_dir, run, teacher, emulators, args, console, resume=True)


@contextmanager
def _games(teacher: Teacher, n_envs: int) -> Iterator[EnvBatch]:
    """Environments that the teacher can play in."""
    emulators = make_batch(teacher.environment, n_envs)
    try:
        teacher.check_plays(emulators)
        yield emulators
    finally:
        emulators.close()


def _show_imported(
    teacher: Teacher, emulators: EnvBatch, args: DistillICs, console: Console
) -> None:
    """Play a few games, so that wrong pixels or a wrong game are seen before hours are spent."""
    import torch

    from ztw_rl.core.backends.eager import eager
    from ztw_rl.rl.evaluate import play
    from ztw_rl.rl.rows import Full, Row

    (result,) = play(
        eager(teacher.model()),
        [emulators],
        [Row(Full())],
        n_episodes=IMPORT_GAMES,
        seed=args.seed,
        action_mode=args.distill.action_mode,
        device=torch.device("cpu"),
    )
    mean, environment = sum(result.returns) / len(result.returns), teacher.environment
    pixels = f" with pixels: {environment.pixels}" if isinstance(environment, AtariConfig) else ""
    console.print(
        f"the imported policy scores {mean:.{decimals(mean)}f} in {IMPORT_GAMES} games of "
        f"{environment.name}{pixels}",
        soft_wrap=True,
    )


def _distill(
    run_dir: Path,
    run: DistillRun,
    teacher: Teacher,
    emulators: EnvBatch,
    args: DistillICs,
    console: Console,
    *,
    resume: bool,
) -> int:
    """Distil, and leave the agent or say how to go on."""
    from ztw_rl.core.checkpoint import load_tensors
    from ztw_rl.core.device import exact_device
    from ztw_rl.rl.agent import save_agent
    from ztw_rl.rl.distill import distill

    result = distill(
        teacher,
        emulators,
        run.distill,
        run_dir,
        seed=run.seed,
        device=exact_device(args.device),
        resume=resume,
        console=console,
        fitted=None if run.ics is None else load_tensors(run_dir / ICS_FILE),
    )
    if not result.finished:
        command = ["ztw-rl", "distill-ics", "--resume", str(run_dir)]
        if args.device != "auto":
            command += ["--device", args.device]
        print(f"stopped after {result.n_timesteps:,} steps; go on with: {shlex.join(command)}")
        return INTERRUPTED
    save_agent(run_dir / agents.AGENT, made_agent(run, teacher, result.model))
    print(f"distilled over {result.n_timesteps:,} steps: {run_dir / agents.AGENT}")
    print(next_line("ztw-rl", "eval", "--agent", str(run_dir)))
    return 0
