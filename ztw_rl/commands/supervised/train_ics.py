"""``ztw-rl supervised train-ics``: fit internal classifiers (ICs) to a trained classifier."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import tyro

from ztw_rl import runs
from ztw_rl.commands._arguments import flat, help_first, parse, peek, read
from ztw_rl.commands.supervised._shared import (
    IC_KIND,
    check_resumable,
    expected_pixels,
    load_backbone,
    never_saw_held_out,
    newest,
    newest_backbone,
    resolve,
    run_folder,
    sized,
    stored_backbone,
)
from ztw_rl.console import plain_console
from ztw_rl.errors import INTERRUPTED, UserError
from ztw_rl.supervised.config import (
    AnyArch,
    DataConfig,
    DataName,
    ICRun,
    ICTraining,
    MethodName,
    PixelConfig,
    default_ic_training,
)

if TYPE_CHECKING:
    from ztw_rl.core.model import EarlyExitModel

PROG = "ztw-rl supervised train-ics"


@dataclass(frozen=True)
class TrainICs:
    """Fit internal classifiers, ensembles where the method has them, and gates to a network.

    The network itself stays as it is. Network, data and pixels default to what the backbone's run
    says. Several processes: torchrun --nproc-per-node N -m ztw_rl.cli supervised train-ics ...
    """

    backbone: Path | None = None
    """A run of train-backbone, or a file of weights (.safetensors, .th, .pt); by default the
    newest run."""
    method: MethodName = "ztw"
    """sdn: plain ICs, also for PBEE; cascade; ensemble; ztw: both; additive: ztw with another
    ensemble; no_stop_gradient: ztw without the shield between ICs."""
    ics: Path | None = None
    """A run of train-ics whose ICs are taken over: only ensembles and gates are fitted."""
    arch: AnyArch = "resnet56"
    """The network; timm:NAME and torchvision:NAME are theirs."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    resume: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[RUN]")] = None
    """Go on with this run folder; without a value, with the run started or resumed last that
    has a checkpoint, or needs none."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Images; of a file of weights, none are held out unless --held-out says so."""
    training: Annotated[ICTraining, tyro.conf.arg(name="")] = field(default_factory=ICTraining)
    """How they learn; the schedule is the paper's for the data set."""
    pixels: PixelConfig = field(default_factory=PixelConfig)
    """Normalisation; the size follows from the data."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl supervised train-ics --help``.

    Returns:
        0, or 130 if the user stopped it.

    Raises:
        UserError: The command line, the data, the weights or the run to resume has an error.
    """
    early = peek(arguments, "arch", "backbone", "data", "ics", "resume", "runs-dir")
    root = Path(early["runs-dir"] or "runs")
    if early["resume"] is not None:
        with help_first(TrainICs, arguments, PROG):
            run_dir = Path(early["resume"] or _resumable(root))
            run = runs.load_config(ICRun, run_dir)
        default = TrainICs(
            Path(run.backbone),
            run.method,
            Path(run.ics) if run.ics else None,
            run.arch,
            run.seed,
            data=run.data,
            training=run.training,
            pixels=run.pixels,
        )
        args = read(TrainICs, arguments, PROG, default)
        wanted = replace(args, data=resolve(args.data))
        check_resumable(run_dir, args.resume, default, wanted)
        return _train(replace(run, data=wanted.data), run_dir, args)

    def find() -> Path:
        return Path(early["backbone"] or newest_backbone(root))

    def start() -> TrainICs:
        found = _defaults(find(), early["arch"], early["data"])
        return _like(found, Path(early["ics"])) if early["ics"] else found

    args = parse(TrainICs, arguments, PROG, start)
    path = find()
    if args.ics:
        _check_like(args, _like(args, args.ics))
    runs.check_writable(args.runs_dir / IC_KIND)
    pixels, data = sized(args.pixels, resolve(args.data), args.arch)
    run = ICRun(
        arch=args.arch,
        method=args.method,
        seed=args.seed,
        backbone=str(path.resolve()),
        ics=str(args.ics.resolve()) if args.ics else None,
        selected_on="held_out" if never_saw_held_out(path, data) else "cross_fit",
        data=data,
        pixels=pixels,
        training=args.training,
    )
    return _train(run, None, args)


def _resumable(root: Path) -> Path:
    """The run to go on with: the last that has a checkpoint, or needs none."""
    last = newest(root, IC_KIND, PROG)
    if runs.load_config(ICRun, last).ics:
        return last
    return newest(root, IC_KIND, PROG, holding=runs.CHECKPOINT)


def _defaults(path: Path, arch: str | None, data: str | None) -> TrainICs:
    """What the command line starts from: the backbone's network and data, the paper's schedule."""
    trained = stored_backbone(path)
    named = cast("DataName", data) if data in get_args(DataName) else None
    if trained is None:
        return TrainICs(
            backbone=path,
            data=DataConfig(held_out=0.0),
            training=default_ic_training(named or "digits"),
            pixels=expected_pixels(arch or TrainICs().arch),
        )
    # The size of a folder's images says nothing of another set's.
    same = named in (None, trained.data.data)
    return TrainICs(
        backbone=path,
        arch=trained.arch,
        data=trained.data if same else replace(trained.data, image_size=None),
        training=default_ic_training(named or trained.data.data),
        pixels=trained.pixels,
    )


def _like(args: TrainICs, path: Path) -> TrainICs:
    """As ``args``, but the ICs themselves as those of a finished run."""
    from ztw_rl.supervised.classifier import load_config

    fitted = load_config(path).run.training
    own = args.training
    return replace(args, training=replace(fitted, ensemble=own.ensemble, gates=own.gates))


def _check_like(args: TrainICs, like: TrainICs) -> None:
    """ICs that are taken over stay as they are.

    Raises:
        UserError: A setting says otherwise.
    """
    for name, value in flat(like.training).items():
        wanted = flat(args.training)[name]
        if wanted != value:
            raise UserError(
                f"--{name.replace('_', '-')} {wanted} is not what the ICs of --ics {args.ics} were "
                f"fitted with, {value}, and they stay as they are; leave it out"
            )


def _train(run: ICRun, resumed: Path | None, args: TrainICs) -> int:
    import torch

    from ztw_rl.core.model import METHODS
    from ztw_rl.supervised.backbones.registry import build_backbone, early_exit
    from ztw_rl.supervised.classifier import (
        FOLDER,
        GATES,
        Classifier,
        ClassifierConfig,
        save_classifier,
    )
    from ztw_rl.supervised.data.datasets import class_names, open_source
    from ztw_rl.supervised.engine import make_engine
    from ztw_rl.supervised.train_ics import train_ics

    engine = make_engine(args.device)
    console = plain_console(stderr=True, quiet=engine.shard.rank > 0)
    method = METHODS[run.method]
    if run.ics and method.ensemble is None and not run.training.gates:
        raise UserError(
            f"--ics leaves nothing to fit for {run.method}, which has no ensemble; leave out "
            "--no-gates"
        )
    source = open_source(run.data, "train", engine.device)
    n_classes = source.n_classes
    if resumed and run.ics is None:
        # The checkpoint holds the whole network, wherever the backbone is by now.
        backbone = build_backbone(run.arch, n_classes, run.pixels.image_size)
    else:
        backbone = load_backbone(Path(run.backbone), run.arch, n_classes, run.pixels.image_size)
    torch.manual_seed(run.seed)
    model = early_exit(
        backbone,
        run.arch,
        method,
        n_classes=n_classes,
        pixels=run.pixels,
        n_ics=run.training.n_ics,
        gates=(GATES,) if run.training.gates else (),
    )
    if run.ics:
        _take_over(model, Path(run.ics), run)
    name = f"{run.title}-{run.method.replace('_', '-')}"
    with run_folder(resumed, args.runs_dir, IC_KIND, name, run, engine) as run_dir:
        console.print(f"{'going on' if resumed else 'fitting ICs'} in {run_dir}", soft_wrap=True)
        finished = train_ics(
            model,
            source,
            run.training,
            run_dir,
            seed=run.seed,
            engine=engine,
            resume=resumed is not None and run.ics is None,
            keep_ics=run.ics is not None,
            console=console,
        )
        if engine.shard.rank:
            return 0
        if not finished:
            print(f"stopped; go on with: {PROG} --resume {run_dir}")
            return INTERRUPTED
        config = ClassifierConfig(n_classes, run, class_names(run.data))
        save_classifier(run_dir / FOLDER, Classifier(config, model.cpu()))
    print(f"fitted {len(model.ics)} ICs ({run.method}) to {run.arch}: {run_dir}")
    return 0


def _take_over(model: EarlyExitModel, path: Path, run: ICRun) -> None:
    """Put the ICs of a finished run into ``model``.

    Raises:
        UserError: Its ICs, its backbone or its training images are others.
    """
    from ztw_rl.supervised.classifier import load_classifier

    other = load_classifier(path)
    if not other.config.run.data.trains_on_the_same(run.data):
        raise UserError(f"--ics {path} was fitted to other images; repeat its --data flags")
    for name in ("arch", "backbone", "pixels"):
        theirs, ours = getattr(other.config.run, name), getattr(run, name)
        if theirs != ours:
            raise UserError(f"--ics {path} has another {name} ({theirs}), expected {ours}")
    try:
        model.ics.load_state_dict(other.model.ics.state_dict())
    except RuntimeError:
        raise UserError(
            f"--ics {path} was fitted as {other.config.run.method}, whose ICs do not fit "
            f"{run.method}; take sdn for ensemble, and cascade or ztw for the others"
        ) from None
