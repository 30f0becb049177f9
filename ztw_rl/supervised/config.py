"""Settings of the supervised pipeline; the command line reads them, so nothing heavy is here."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Annotated, Literal, get_args

from ztw_rl.errors import UserError
from ztw_rl.settings import (
    AtLeastZero,
    Count,
    Positive,
    Range,
    Ranged,
    Seed,
    Share,
    added,
    require,
    require_schedule,
)

Arch = Literal["resnet56", "mobilenet", "wideresnet", "vgg16", "resnet50"]
"""Networks of our own, whose internal classifiers are the paper's."""
AnyArch = Arch | str
"""One of these, or such as ``timm:resnet50`` and ``torchvision:resnet18``; see ``library_arch``."""
Library = Literal["timm", "torchvision"]
DataName = Literal[
    "digits", "cifar10", "cifar100", "cifar2", "tinyimagenet", "imagenet", "oct2017", "folder"
]
MethodName = Literal["ztw", "sdn", "cascade", "ensemble", "additive", "no_stop_gradient"]
Precision = Literal["float32", "bfloat16"]
OptimizerName = Literal["adam", "sgd"]
FallbackName = Literal["last", "most_confident"]


@dataclass(frozen=True)
class LibraryArch:
    """A library's network."""

    library: Library
    model: str
    """Its name there."""

    def __str__(self) -> str:
        """As the command line has it."""
        return f"{self.library}:{self.model}"


def library_arch(arch: AnyArch) -> LibraryArch | None:
    """The library's network that a name means; None of a network of our own.

    Args:
        arch: Such as ``resnet56`` or ``timm:resnet50``.

    Raises:
        UserError: It is neither.
    """
    library, colon, model = arch.partition(":")
    for known in get_args(Library):
        if colon and library == known and model:
            return LibraryArch(known, model)
    if arch not in get_args(Arch):
        near = difflib.get_close_matches(arch, get_args(Arch), n=1, cutoff=0.0)[0]
        raise UserError(
            f"there is no network '{arch}'; did you mean '{near}'? Others are called such as "
            "timm:resnet50 or torchvision:resnet18"
        )
    return None


@dataclass(frozen=True)
class PixelConfig(Ranged):
    """How an image enters a network. A network must be run on what it was trained on."""

    image_size: Count = 32
    """Side in pixels."""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Subtracted from each channel of pixels in 0 … 1."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Each channel is divided by it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, all(map(isfinite, self.mean)), "mean", "all finite")
        require(self, all(0 < s < inf for s in self.std), "std", "all above 0 and finite")


@dataclass(frozen=True)
class BackboneTraining(Ranged):
    """Training of a backbone by stochastic gradient descent with momentum."""

    n_epochs: Count = 100
    """Passes over the training images."""
    batch_size: Count = 128
    """Minibatch size, over all processes together."""
    learning_rates: tuple[float, ...] = (0.1, 0.01, 0.001, 0.0001)
    """One after another."""
    milestones: tuple[float, ...] = (0.35, 0.6, 0.85)
    """Shares of the training after which the next learning rate takes over."""
    momentum: Share = 0.9
    """Of the descent."""
    weight_decay: AtLeastZero = 5e-4
    """Of all parameters."""
    trains: Literal["all", "head"] = "all"
    """head: only the final linear layer learns (transfer learning); needs --init."""
    precision: Precision = "float32"
    """Arithmetic of the forward pass; weights and losses stay in float32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_schedule(self, "learning_rates", "milestones")


@dataclass(frozen=True)
class EnsembleTraining(Ranged):
    """Fitting of the ensembles on the cached answers of the exits."""

    n_epochs: Count = 500
    """Passes over the cached answers."""
    batch_size: Count = 512
    """Minibatch size."""
    learning_rate: Positive = 5e-4
    """Constant."""
    optimizer: OptimizerName = "adam"
    """adam as published code has it; sgd as the paper says."""


@dataclass(frozen=True)
class ICTraining(Ranged):
    """Fitting of internal classifiers (ICs), then of their ensembles and gates."""

    n_epochs: Count = 50
    """Passes over the training images."""
    batch_size: Count = 128
    """Minibatch size, over all processes together."""
    learning_rates: tuple[float, ...] = (1e-3, 1e-4)
    """Adam's, one after another."""
    milestones: tuple[float, ...] = (0.3,)
    """Shares of the training after which the next learning rate takes over: epoch 15 of 50."""
    n_ics: Annotated[int | None, Range(1)] = None
    """Number of ICs, spread evenly over the blocks; by default one after each block, or after
    each third block of resnet50. In a network of timm or torchvision they are spread over the
    operations, three by default."""
    precision: Precision = "float32"
    """Arithmetic of backbone and ICs; weights and losses stay in float32."""
    ensemble: EnsembleTraining = field(default_factory=EnsembleTraining)
    """The second stage."""
    gates: bool = added(True, before=False)
    """Gates at the exits, which learn in a third stage what leaving there costs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_schedule(self, "learning_rates", "milestones")


def default_ic_training(data: DataName) -> ICTraining:
    """The paper's schedule for a data set: its appendix A.1, and the published code's ensembles.

    Args:
        data: Name of the data set.
    """
    if data == "tinyimagenet":
        return ICTraining(learning_rates=(1e-3, 1e-4, 1e-5), milestones=(0.3, 0.8))
    if data in ("imagenet", "oct2017"):
        return ICTraining(
            n_epochs=40,
            learning_rates=(1e-5, 1e-6, 1e-7),
            milestones=(0.5, 0.75),
            ensemble=EnsembleTraining(n_epochs=10),
        )
    return ICTraining()


@dataclass(frozen=True)
class DataConfig(Ranged):
    """Which images, and which of them train, select and test."""

    data: DataName = "digits"
    """digits needs no download; cifar2 is cifar10 as animals and transport; folder is any set of
    images of your own."""
    data_path: str | None = None
    """Folder with train*.parquet and test*.parquet, or with train/ and test/ or val/ of one
    folder per class, or the data set's own layout; by default data/, where torchvision downloads
    the CIFAR sets."""
    held_out: float = 0.1
    """Share of the training images that only thresholds are chosen on."""
    split_seed: Annotated[int, Range(0)] = 0
    """Of the draw of held-out images and of subsets."""
    n_train: Annotated[int | None, Range(2)] = None
    """Use only this many training images, drawn at random."""
    n_test: Annotated[int | None, Range(2)] = None
    """Use only this many test images, drawn at random."""
    n_workers: Annotated[int, Range(0)] = 2
    """Threads or processes that decode images."""
    image_size: Annotated[int | None, Range(1)] = None
    """Side in pixels to which the images of a folder are scaled and cropped; by default what the
    weights of timm or torchvision are made for, else 224."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, 0 <= self.held_out < 1, "held_out", "at least 0 and below 1")
        if self.image_size is not None and self.data != "folder":
            raise UserError(
                f"--image-size is for --data folder; leave it out for {self.data}, whose images "
                "have a size of their own"
            )

    def trains_on_the_same(self, other: DataConfig) -> bool:
        """Whether training and held-out images are those of ``other``."""
        names = ("data", "data_path", "held_out", "split_seed", "n_train")
        return all(getattr(self, name) == getattr(other, name) for name in names)


class OfNetwork(Ranged):
    """Base of the settings of a run that name a network and its data."""

    arch: AnyArch
    data: DataConfig

    def __post_init__(self) -> None:
        """Check the network's name as well; see ``Ranged``.

        Raises:
            UserError: A value is outside, or there is no such network.
        """
        super().__post_init__()
        library_arch(self.arch)

    @property
    def title(self) -> str:
        """Network and data, as files are called."""
        return title(self.arch, self.data)


@dataclass(frozen=True)
class BackboneRun(OfNetwork):
    """All settings of a backbone's training: its ``config.json``."""

    arch: AnyArch
    seed: Seed
    init: str | None
    data: DataConfig
    pixels: PixelConfig
    training: BackboneTraining


SelectedOn = Literal["held_out", "cross_fit"]


@dataclass(frozen=True)
class ICRun(OfNetwork):
    """All settings of a training of ICs: its ``config.json``."""

    arch: AnyArch
    method: MethodName
    seed: Seed
    backbone: str
    ics: str | None
    selected_on: SelectedOn
    """What thresholds are chosen on: held-out training images where neither backbone nor ICs saw
    them, else halves of the test set in turn."""
    data: DataConfig
    pixels: PixelConfig
    training: ICTraining


def title(arch: AnyArch, data: DataConfig) -> str:
    """What a network and its data are called in names of files: no colon, which not all allow."""
    return f"{arch.replace(':', '-')}-{data.data}"
