"""What the supervised commands share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ztw_rl import runs
from ztw_rl.commands import _arguments
from ztw_rl.commands._arguments import SettingsT
from ztw_rl.errors import UserError
from ztw_rl.supervised.config import BackboneRun, DataConfig, PixelConfig, library_arch

if TYPE_CHECKING:
    from torch import nn

    from ztw_rl.supervised.config import AnyArch, ICRun
    from ztw_rl.supervised.engine import Engine

BACKBONE_KIND = "backbone"
IC_KIND = "ics"
PRETRAINED = "torchvision"
"""As ``--init``: weights that are downloaded."""


def resolve(data: DataConfig) -> DataConfig:
    """The data set's folder as an absolute path, so that a run finds it again from anywhere."""
    if data.data_path is None:
        return data
    return replace(data, data_path=str(Path(data.data_path).resolve()))


def expected_pixels(arch: AnyArch) -> PixelConfig:
    """Normalisation that a network expects, where its library says.

    Args:
        arch: Its name.

    Raises:
        UserError: There is no such network, or its library is not installed.
    """
    library = library_arch(arch)
    if library is None:
        return PixelConfig()
    from ztw_rl.supervised.backbones.libraries import preprocessing

    return replace(preprocessing(library), image_size=PixelConfig().image_size)


def sized(pixels: PixelConfig, data: DataConfig, arch: AnyArch) -> tuple[PixelConfig, DataConfig]:
    """The pixels, in the size of the data set's images, and a folder's images in a size.

    Args:
        pixels: As wished for.
        data: The images.
        arch: The network, which may say how large a folder's images should be.

    Raises:
        UserError: They were wished for in another size.
    """
    from ztw_rl.supervised.data.datasets import SPECS

    size = SPECS[data.data].image_size
    if data.data == "folder":
        size = data.image_size or _native_size(arch, size)
        data = replace(data, image_size=size)
    if pixels.image_size not in (size, PixelConfig().image_size):
        if data.data == "folder":
            raise UserError(
                f"--image-size {size} is not the {pixels.image_size} pixels that the network was "
                "trained on; leave it out"
            )
        raise UserError(
            f"--pixels.image-size follows from the data: {size} for {data.data}; leave it out"
        )
    return replace(pixels, image_size=size), data


def _native_size(arch: AnyArch, default: int) -> int:
    """Side of the images that the library's weights are made for."""
    library = library_arch(arch)
    if library is None:
        return default
    from ztw_rl.supervised.backbones.libraries import preprocessing

    return preprocessing(library).image_size


def newest(root: Path, kind: str, remedy: str, holding: str = runs.CONFIG) -> Path:
    """The run that was started or resumed last, of those ``holding`` something; see ``runs``.

    Raises:
        UserError: There is none.
    """
    found = runs.newest(root, kind, holding=holding)
    if found is None:
        raise UserError(f"there is no run in {root / kind}; begin with: {remedy}")
    return found


def check_resumable(
    run_dir: Path, given: Sequence[Path] | None, stored: SettingsT, wanted: SettingsT
) -> None:
    """Find out whether a training may be gone on with; see ``_arguments.check_resumable``.

    Where the images lie and who decodes them may change: they stay the same images.
    """
    _arguments.check_resumable(
        run_dir,
        given,
        stored,
        wanted,
        changeable=("data.data_path", "data.n_workers"),
        unprefixed=("data", "training"),
    )


def newest_backbone(root: Path) -> Path:
    """The run of train-backbone that was started or resumed last, of those that are finished.

    Raises:
        UserError: There is none.
    """
    return _newest_finished(root, BACKBONE_KIND, "backbone.safetensors", "train-backbone")


def newest_classifier(root: Path) -> Path:
    """The run of train-ics that was started or resumed last, of those that are finished.

    Raises:
        UserError: There is none.
    """
    return _newest_finished(root, IC_KIND, "classifier/classifier.json", "train-ics")


def _newest_finished(root: Path, kind: str, result: str, command: str) -> Path:
    prog = f"ztw-rl supervised {command}"
    if runs.newest(root, kind) is not None and runs.newest(root, kind, holding=result) is None:
        raise UserError(f"no run in {root / kind} is finished; go on with: {prog} --resume")
    return newest(root, kind, prog, holding=result)


@contextmanager
def run_folder(
    resumed: Path | None,
    root: Path,
    kind: str,
    name: str,
    run: BackboneRun | ICRun,
    engine: Engine,
) -> Iterator[Path]:
    """A run's folder, which is this command's until it ends.

    Of several processes the first makes and claims it, and all learn of it.

    Args:
        resumed: The folder, if the run goes on.
        root: Usually ``runs``.
        kind: See ``runs.create``.
        name: Of the run, without its number.
        run: Its settings.
        engine: What knows the processes.

    Raises:
        UserError: Another command has it.
    """
    first = engine.shard.rank == 0
    made = runs.create(root, kind, name, run) if first and resumed is None else resumed
    with runs.claimed(made) if first and made is not None else nullcontext():
        if first and resumed is not None:
            # Also tells ``runs.newest`` that this run was resumed last.
            runs.save_config(resumed, run)
        found: Path = engine.share(made)
        yield found


def stored_backbone(path: Path) -> BackboneRun | None:
    """Settings of a run of ``train-backbone``, or None for a file of weights.

    Raises:
        UserError: There is nothing of the kind.
    """
    if path.is_dir():
        return runs.load_config(BackboneRun, path)
    if not path.is_file():
        raise UserError(f"--backbone {path} is neither a file of weights nor a run folder")
    return None


def never_saw_held_out(path: Path, data: DataConfig) -> bool:
    """Whether a network never trained on the images that ``data`` holds out.

    What it was initialised from counts too. Of a file of weights nobody knows what it saw.

    Args:
        path: A run of ``train-backbone``, or a file of weights.
        data: Of the ICs.
    """
    if not path.is_dir():
        return False
    run = runs.load_config(BackboneRun, path)
    if not data.held_out or not data.trains_on_the_same(run.data) or run.init == PRETRAINED:
        return False
    return run.init is None or never_saw_held_out(Path(run.init), data)


def load_backbone(path: Path, arch: AnyArch, n_classes: int, image_size: int) -> nn.Module:
    """A trained network, from a run of ``train-backbone`` or from a file of weights.

    Raises:
        UserError: The training is not finished, or the weights are another network's.
    """
    from ztw_rl.supervised.backbones.registry import build_backbone
    from ztw_rl.supervised.backbones.weights import final_names, load_weights, read_weights
    from ztw_rl.supervised.train_backbone import WEIGHTS

    weights = path / WEIGHTS if path.is_dir() else path
    if path.is_dir() and not weights.is_file():
        raise UserError(
            f"{path} is not finished; go on with: ztw-rl supervised train-backbone --resume {path}"
        )
    backbone = build_backbone(arch, n_classes, image_size)
    tensors = read_weights(weights)
    name = final_names(backbone)[0]
    given, final = tensors.get(name), backbone.state_dict()[name]
    if given is not None and len(given) != len(final):
        raise UserError(
            f"{path} tells {len(given)} classes apart, but the data have {n_classes}; retrain its "
            "final layer with: ztw-rl supervised train-backbone --trains head --init ..."
        )
    load_weights(backbone, tensors, weights)
    return backbone
