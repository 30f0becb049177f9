"""``ztw-rl train-ppo``: train a PPO policy on an Atari game, or go on with a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from ztw_rl import recipes, runs
from ztw_rl.commands._arguments import check_resumable, help_first, peek, read
from ztw_rl.console import next_line, plain_console
from ztw_rl.errors import INTERRUPTED, UserError
from ztw_rl.rl.atari.config import AtariConfig, canonical, rom_id
from ztw_rl.rl.config import PPOConfig, PPORun

KIND = "ppo"
PROG = "ztw-rl train-ppo"
CHANGEABLE = {"ppo.n_timesteps", "ppo.precision", "ppo.compiled", "ppo.checkpoint_interval"}
"""What a resumed run may set anew: everything else would make it another experiment."""


@dataclass(frozen=True)
class TrainPPO:
    """Train a PPO policy on an Atari game.

    A flag beats the game's recipe in envs/, which beats the default. Ctrl-C saves a checkpoint
    and says how to go on.
    """

    env: str
    """Game or recipe, in any spelling."""
    n_timesteps: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Short for --ppo.n-timesteps."""
    seed: int = 0
    """Of games, initial weights, action noise and minibatches."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    resume: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[RUN]")] = None
    """Go on with this run folder; without a value, with the run of the game that was started or
    resumed last and has a checkpoint. Its stored settings take the place of recipe and defaults."""
    init: Path | None = None
    """Begin with the weights in this file rather than with random ones, such as
    agents/pong/ppo.safetensors: policy and value net. Steps are counted from 0, and the optimiser
    begins anew."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    ppo: PPOConfig = field(default_factory=PPOConfig)
    """PPO, in the spelling of Stable-Baselines3."""
    atari: AtariConfig = field(default_factory=AtariConfig)
    """How the emulator's frames become observations."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl train-ppo --help``.

    Returns:
        0, or 130 if the user stopped the training.

    Raises:
        UserError: The command line, the recipe or the run to resume has an error.
    """
    args, run_dir, stored = _parse(arguments)
    init = None if args.init is None else str(args.init)
    run = PPORun(seed=args.seed, atari=args.atari, ppo=args.ppo, init=init)
    if stored is not None and run_dir is not None:
        check_resumable(run_dir, args.resume, stored, run, changeable=CHANGEABLE)
    else:
        runs.check_writable(args.runs_dir / KIND)
    return _train(run, run_dir, args)


def _parse(arguments: list[str]) -> tuple[TrainPPO, Path | None, PPORun | None]:
    """The command line, and folder and config of the run to resume."""
    early = peek(arguments, "env", "resume", "runs-dir")
    recipe = recipes.load(early["env"]) if early["env"] else None
    default = TrainPPO(env=tyro.MISSING)
    if recipe:
        default = replace(default, atari=recipe.atari, ppo=recipe.ppo)
    run_dir, stored = None, None
    if early["resume"] is not None:
        game = canonical(recipe.atari.game) if recipe else None
        root = Path(early["runs-dir"] or "runs")
        shown = replace(default, env=early["env"] or "the run's game")
        with help_first(TrainPPO, arguments, PROG, shown):
            run_dir = Path(early["resume"]) if early["resume"] else _newest(root, game)
            stored = runs.load_config(PPORun, run_dir)
        played = canonical(stored.atari.game)
        if game not in (None, played):
            raise UserError(f"{run_dir} plays {played}, not {game}; leave out --env or --resume")
        default = TrainPPO(
            env=played,
            seed=stored.seed,
            init=None if stored.init is None else Path(stored.init),
            atari=stored.atari,
            ppo=stored.ppo,
        )
    args = read(TrainPPO, arguments, PROG, default)
    if recipe is None and stored is None:
        raise UserError("--env needs the name of a game, such as Pong")
    if args.n_timesteps is not None:
        args = replace(args, ppo=replace(args.ppo, n_timesteps=args.n_timesteps))
    game = rom_id(args.atari.game)
    return replace(args, atari=replace(args.atari, game=game)), run_dir, stored


def _newest(root: Path, game: str | None) -> Path:
    found = runs.newest(root, KIND, game, holding=runs.CHECKPOINT)
    if found is None:
        wanted = root / KIND / (f"{game}-*" if game else "*")
        raise UserError(f"there is no run {wanted} to resume; leave out --resume")
    return found


def _train(run: PPORun, resumed: Path | None, args: TrainPPO) -> int:
    """Train in a new run folder or in ``resumed``, and say where the result is."""
    from ztw_rl.core.backends.eager import require_compiler
    from ztw_rl.core.checkpoint import newest_checkpoint
    from ztw_rl.core.device import exact_device
    from ztw_rl.rl import ppo
    from ztw_rl.rl.atari.vec_env import AtariVecEnv

    device = exact_device(args.device)
    if run.ppo.compiled and device.type == "cpu":
        require_compiler("leave out --ppo.compiled")
    if resumed is not None:
        newest_checkpoint(resumed)
    init = None if run.init is None or resumed is not None else Path(run.init)
    env = AtariVecEnv(run.atari, run.ppo.n_envs, run.seed)
    try:
        if init is not None:
            # Weights that do not fit show here, before there is a run folder.
            ppo.load_weights(ppo.build_ppo(env, run.ppo, run.seed, device), init)
        game = canonical(run.atari.game)
        run_dir = resumed or runs.create(args.runs_dir, KIND, game, run)
        console = plain_console(stderr=True)
        with runs.claimed(run_dir):
            if resumed is not None:
                runs.save_config(run_dir, run)
            console.print(
                f"{'training' if resumed is None else 'going on'} in {run_dir}", soft_wrap=True
            )
            if init is not None:
                console.print(
                    f"begins with the weights of {init}; steps are counted from 0", soft_wrap=True
                )
            result = ppo.train(
                env,
                run.ppo,
                run_dir,
                seed=run.seed,
                device=device,
                resume=resumed is not None,
                init=init,
                console=console,
            )
    finally:
        env.close()
    if not result.finished:
        command = ["ztw-rl", "train-ppo", "--resume", str(run_dir)]
        if args.device != "auto":
            command += ["--device", args.device]
        print(f"stopped after {result.n_timesteps:,} steps; go on with: {shlex.join(command)}")
        return INTERRUPTED
    print(f"trained for {result.n_timesteps:,} steps: {result.checkpoint}")
    print(next_line("ztw-rl", "distill-ics", "--policy", str(run_dir)))
    return 0
