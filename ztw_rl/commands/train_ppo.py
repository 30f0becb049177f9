"""``ztw-rl train-ppo``: train a PPO policy, or go on with a run."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from ztw_rl import recipes, runs
from ztw_rl.commands._arguments import check_resumable, help_first, peek, read
from ztw_rl.commands._environment import EnvironmentArguments, flags_of
from ztw_rl.console import next_line, plain_console
from ztw_rl.errors import INTERRUPTED, UserError
from ztw_rl.rl.config import PPOConfig, PPORun
from ztw_rl.rl.environments import Environment, make_vec_env, placed

KIND = "ppo"
PROG = "ztw-rl train-ppo"
CHANGEABLE = {"ppo.n_timesteps", "ppo.precision", "ppo.compiled", "ppo.checkpoint_interval"}
"""What a resumed run may set anew: everything else would make it another experiment."""


@dataclass(frozen=True)
class TrainPPO(EnvironmentArguments):
    """Train a PPO policy on an Atari game or any gymnasium environment with discrete actions.

    A flag beats the environment's recipe in envs/, which beats the default. Ctrl-C saves a
    checkpoint and says how to go on.
    """

    env: str
    """Atari game or recipe, in any spelling; gymnasium's id, such as CartPole-v1; or module:Id."""
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


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl train-ppo --help``.

    Returns:
        0, or 130 if the user stopped the training.

    Raises:
        UserError: The command line, the recipe or the run to resume has an error.
    """
    args, environment, run_dir, stored = _parse(arguments)
    init = None if args.init is None else str(args.init)
    run = PPORun(seed=args.seed, ppo=args.ppo, init=init, **placed(environment))
    if stored is not None and run_dir is not None:
        check_resumable(run_dir, args.resume, stored, run, changeable=CHANGEABLE)
    else:
        runs.check_writable(args.runs_dir / KIND)
    return _train(run, run_dir, args)


def _parse(
    arguments: list[str],
) -> tuple[TrainPPO, Environment, Path | None, PPORun | None]:
    """The command line and what it plays, and folder and config of the run to resume."""
    early = peek(arguments, "env", "resume", "runs-dir")
    recipe = recipes.load(early["env"]) if early["env"] else None
    default = TrainPPO(env=tyro.MISSING)
    if recipe:
        default = replace(default, ppo=recipe.ppo, **flags_of(recipe.environment))
    run_dir, stored = None, None
    if early["resume"] is not None:
        game = recipe.environment.name if recipe else None
        root = Path(early["runs-dir"] or "runs")
        shown = replace(default, env=early["env"] or "the run's game")
        with help_first(TrainPPO, arguments, PROG, shown):
            run_dir = Path(early["resume"]) if early["resume"] else _newest(root, game)
            stored = runs.load_config(PPORun, run_dir)
        recipe = recipes.of(stored.environment)
        played = stored.environment.name
        if game not in (None, played):
            raise UserError(f"{run_dir} plays {played}, not {game}; leave out --env or --resume")
        default = TrainPPO(
            env=played,
            seed=stored.seed,
            init=None if stored.init is None else Path(stored.init),
            ppo=stored.ppo,
            **flags_of(stored.environment),
        )
    args = read(TrainPPO, arguments, PROG, default)
    if recipe is None:
        raise UserError("--env needs the name of an environment, such as Pong or CartPole-v1")
    if args.n_timesteps is not None:
        args = replace(args, ppo=replace(args.ppo, n_timesteps=args.n_timesteps))
    return args, args.played(recipe), run_dir, stored


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

    device = exact_device(args.device)
    if run.ppo.compiled and device.type == "cpu":
        require_compiler("leave out --ppo.compiled")
    if resumed is not None:
        newest_checkpoint(resumed)
    init = None if run.init is None or resumed is not None else Path(run.init)
    env = make_vec_env(run.environment, run.ppo.n_envs, run.seed, run.ppo.reward_scale)
    try:
        # A network that does not read such observations shows here.
        run.ppo.network_for(env.batch.observation_space.shape)
        if init is not None:
            # Weights that do not fit show here, before there is a run folder.
            ppo.load_weights(ppo.build_ppo(env, run.ppo, run.seed, device), init)
        name = run.environment.name
        run_dir = resumed or runs.create(args.runs_dir, KIND, name, run)
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
