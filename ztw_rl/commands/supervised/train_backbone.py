"""``ztw-rl supervised train-backbone``: train an image classifier, or its final layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ztw_rl import runs
from ztw_rl.commands._arguments import help_first, parse, peek, read
from ztw_rl.commands.supervised._shared import (
    BACKBONE_KIND,
    PRETRAINED,
    check_resumable,
    expected_pixels,
    newest,
    resolve,
    run_folder,
    sized,
)
from ztw_rl.console import plain_console
from ztw_rl.errors import INTERRUPTED, UserError
from ztw_rl.supervised.config import AnyArch, BackboneRun, BackboneTraining, DataConfig, PixelConfig

if TYPE_CHECKING:
    from torch import nn

PROG = "ztw-rl supervised train-backbone"
PRETRAINED_ARCHS = ("resnet50", "torchvision:resnet50")
"""Networks whose weights are downloaded."""


@dataclass(frozen=True)
class TrainBackbone:
    """Train an image classifier that internal classifiers can be fitted to.

    Transfer learning: --init FILE --trains head replaces and trains the final layer alone. Several
    processes: torchrun --nproc-per-node N -m ztw_rl.cli supervised train-backbone ...
    """

    arch: AnyArch = "resnet56"
    """The network; resnet50 reads large images. timm:NAME and torchvision:NAME are theirs."""
    init: str | None = None
    """Begin from these weights: a .safetensors, .th or .pt file, a run folder, or 'torchvision'
    for its resnet50. A final layer for another number of classes is replaced. Thresholds can be
    chosen on held-out images later if this is a run folder that holds out the same ones."""
    seed: int = 0
    """Of initial weights, order and augmentation."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    resume: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[RUN]")] = None
    """Go on with this run folder; without a value, with the run started or resumed last that
    has a checkpoint."""
    runs_dir: Path = Path("runs")
    """Where run folders are."""
    data: tyro.conf.OmitArgPrefixes[DataConfig] = field(default_factory=DataConfig)
    """Images."""
    training: tyro.conf.OmitArgPrefixes[BackboneTraining] = field(default_factory=BackboneTraining)
    """How it learns."""
    pixels: PixelConfig = field(default_factory=PixelConfig)
    """Normalisation; the size follows from the data."""


def main(arguments: list[str]) -> int:
    """Run the command; see ``ztw-rl supervised train-backbone --help``.

    Returns:
        0, or 130 if the user stopped it.

    Raises:
        UserError: The command line, the data, the weights or the run to resume has an error.
    """
    early = peek(arguments, "arch", "resume", "runs-dir")
    if early["resume"] is not None:
        root = Path(early["runs-dir"] or "runs")
        with help_first(TrainBackbone, arguments, PROG):
            given = early["resume"] or newest(root, BACKBONE_KIND, PROG, holding=runs.CHECKPOINT)
            run_dir = Path(given)
            stored = runs.load_config(BackboneRun, run_dir)
        default = TrainBackbone(
            stored.arch,
            stored.init,
            stored.seed,
            data=stored.data,
            training=stored.training,
            pixels=stored.pixels,
        )
        args = read(TrainBackbone, arguments, PROG, default)
        wanted = replace(args, init=_located(args.init), data=resolve(args.data))
        check_resumable(run_dir, args.resume, default, wanted)
        return _train(replace(stored, data=wanted.data), run_dir, args)

    def start() -> TrainBackbone:
        arch = early["arch"] or TrainBackbone().arch
        return TrainBackbone(pixels=expected_pixels(arch))

    args = parse(TrainBackbone, arguments, PROG, start)
    if args.training.trains == "head" and args.init is None:
        raise UserError("--trains head needs --init: weights to keep below the final layer")
    runs.check_writable(args.runs_dir / BACKBONE_KIND)
    pixels, data = sized(args.pixels, resolve(args.data), args.arch)
    run = BackboneRun(args.arch, args.seed, _located(args.init), data, pixels, args.training)
    return _train(run, None, args)


def _located(init: str | None) -> str | None:
    """The initial weights' file or folder as an absolute path, as ``resolve`` does with images."""
    return init if init in (None, PRETRAINED) else str(Path(init).resolve())


def _train(run: BackboneRun, resumed: Path | None, args: TrainBackbone) -> int:
    import torch

    from ztw_rl.supervised.data.datasets import open_source
    from ztw_rl.supervised.engine import make_engine
    from ztw_rl.supervised.train_backbone import train_backbone

    engine = make_engine(args.device)
    console = plain_console(stderr=True, quiet=engine.shard.rank > 0)
    source = open_source(run.data, "train", engine.device)
    held_out = open_source(run.data, "held_out", engine.device) if run.data.held_out else None
    torch.manual_seed(run.seed)
    backbone = _begin(run, source.n_classes, resumed is not None)
    with run_folder(resumed, args.runs_dir, BACKBONE_KIND, run.title, run, engine) as run_dir:
        console.print(f"{'going on' if resumed else 'training'} in {run_dir}", soft_wrap=True)
        result = train_backbone(
            backbone,
            run.pixels,
            source,
            held_out,
            run.training,
            run_dir,
            seed=run.seed,
            engine=engine,
            resume=resumed is not None,
            console=console,
        )
    if engine.shard.rank:
        return 0
    if not result.finished:
        print(f"stopped; go on with: {PROG} --resume {run_dir}")
        return INTERRUPTED
    shown = "" if result.accuracy is None else f", {result.accuracy:.2%} on held-out images"
    print(f"trained {run.arch}{shown}: {run_dir}")
    return 0


def _begin(run: BackboneRun, n_classes: int, resumed: bool) -> nn.Module:
    """The network with the parameters that training begins from; a checkpoint has its own."""
    from ztw_rl.supervised.backbones.registry import build_backbone
    from ztw_rl.supervised.backbones.weights import final_names, load_weights, read_weights
    from ztw_rl.supervised.train_backbone import WEIGHTS

    backbone = build_backbone(run.arch, n_classes, run.pixels.image_size)
    if run.init is None or resumed:
        return backbone
    if run.init == PRETRAINED:
        if run.arch not in PRETRAINED_ARCHS:
            raise UserError(
                f"--init torchvision has weights of resnet50 alone; for {run.arch} name a file of "
                "weights with --init"
            )
        from ztw_rl.supervised.backbones.resnets import pretrained

        tensors = pretrained()
    else:
        path = Path(run.init)
        tensors = read_weights(path / WEIGHTS if path.is_dir() else path)
    own = backbone.state_dict()
    names = final_names(backbone)
    other = [n for n in names if n in tensors and tensors[n].shape != own[n].shape]
    load_weights(backbone, tensors, run.init, but=names if other else ())
    return backbone
