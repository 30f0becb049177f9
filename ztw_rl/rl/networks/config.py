"""What a policy's network is, without its weights; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ztw_rl.errors import UserError
from ztw_rl.settings import Ranged, require

Trunk = Literal["nature", "impala", "mlp"]
Activation = Literal["relu", "tanh"]

Frame = tuple[int, int, int]
Widths = tuple[int, ...]

ATARI_FRAME: Frame = (4, 84, 84)
"""Four stacked frames."""
NATURE_WIDTHS: Widths = (32, 64, 64, 512)
IMPALA_WIDTHS: Widths = (16, 32, 32, 256)
SMALLEST = 36
"""Pixels of a side below which a NatureCNN has nothing left to read."""

PixelHead = Literal["windows", "patches"]
"""How an exit at the input looks at an image first: in windows of 8×8 that overlap, or in patches
of 4×4."""

_STAGES = {"nature": "conv", "impala": "stage"}
"""What the parts of a trunk are called, before their number."""


@dataclass(frozen=True)
class NetworkConfig(Ranged):
    """The layers of a policy: a trunk, then hidden layers, then the head.

    Its places are ``input``; ``conv1`` … of a NatureCNN or ``stage1`` … of an IMPALA-CNN, and
    ``features``; ``layer1`` … of the hidden layers.
    """

    input_shape: tuple[int, ...] = ATARI_FRAME
    """(C, H, W) uint8 images, or (D,) vectors of float32."""
    trunk: Trunk = "nature"
    """nature: Mnih et al. (2015); impala: Espeholt et al. (2018); mlp: hidden layers alone."""
    widths: Widths = NATURE_WIDTHS
    """Of the trunk: channels of each part, then the number of features."""
    hidden: Widths = ()
    """Of the layers between trunk and head; Stable-Baselines3's ``net_arch``."""
    activation: Activation = "relu"
    """Behind each hidden layer; relu without any."""
    normalizes: bool = False
    """Whether vectors are normalised first, by statistics that are kept with the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, all(w > 0 for w in self.widths), "widths", "all above 0")
        require(self, all(w > 0 for w in self.hidden), "hidden", "all above 0")
        require(self, all(n > 0 for n in self.input_shape), "input_shape", "all above 0")
        if self.trunk == "mlp":
            require(self, not self.widths, "widths", "empty for an mlp, which has hidden layers")
            require(self, bool(self.hidden), "hidden", "at least one layer of an mlp")
        elif len(self.input_shape) != 3:
            raise UserError(
                f"a network of the kind {self.trunk} reads images (C, H, W), not "
                f"{self.input_shape}; take mlp"
            )
        else:
            require(self, len(self.widths) > 1, "widths", "channels of each part, then features")
        if self.trunk == "nature":
            require(self, len(self.widths) == 4, "widths", "three channels, then features")
            if min(self.input_shape[1:]) < SMALLEST:
                _, height, width = self.input_shape
                raise UserError(
                    f"a NatureCNN needs images of {SMALLEST}x{SMALLEST} at least, not "
                    f"{height}x{width}; take impala or mlp"
                )
        require(
            self, not self.normalizes or len(self.input_shape) == 1, "normalizes", "of vectors only"
        )

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the network's parts in order, each the place behind it."""
        stage = _STAGES.get(self.trunk)
        trunk = [f"{stage}{n}" for n in range(1, len(self.widths))] + ["features"] if stage else []
        return ("input", *trunk, *(f"layer{n}" for n in range(1, len(self.hidden) + 1)))

    @property
    def places(self) -> tuple[str, ...]:
        """Where exits can hang: everywhere but behind the last part, where the head is."""
        return self.blocks[:-1]

    @property
    def default_exits(self) -> tuple[str, ...]:
        """Where they hang if nobody says: the paper's two, each stage, or each hidden layer."""
        if self.trunk == "nature":
            return ("conv1", "conv2")
        return self.places[1:] or self.places

    def check_exits(self, exits: tuple[str, ...]) -> None:
        """Find out whether exits can hang there.

        Raises:
            UserError: A place is unknown, repeated or out of order, or there is none.
        """
        order = [name for name in self.places if name in exits]
        if order != list(exits) or not exits:
            raise UserError(
                f"exits must be some of {', '.join(self.places)} in this order, "
                f"not '{', '.join(exits)}'"
            )
