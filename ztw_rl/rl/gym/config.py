"""Which gymnasium environment, and how it is wrapped; imports nothing heavy, for help reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from ztw_rl.settings import Count, Ranged

Plain = int | float | bool | str


@dataclass(frozen=True)
class GymConfig(Ranged):
    """A gymnasium environment with discrete actions. One choice serves all three stages."""

    id: str = ""
    """Gymnasium's id, such as CartPole-v1, or module:Id of another package; what --env names."""
    kwargs: dict[str, Plain] = field(default_factory=dict)
    """What the environment is made with, beside its id."""
    wrappers: tuple[str, ...] = ()
    """Such as minigrid.wrappers:ImgObsWrapper, the innermost first."""
    frame_stack: Count = 1
    """Observations stacked along the channels of images, or one behind another; newest last."""
    vectorization: Literal["sync", "async"] = "sync"
    """Environments side by side: one after another, or each in a process of its own."""

    @property
    def name(self) -> str:
        """What runs and tables are called: ``cartpole`` for CartPole-v1."""
        bare = re.sub(r"-v\d+$", "", self.id.rsplit(":", 1)[-1].rsplit("/", 1)[-1])
        return re.sub(r"[^a-z0-9]", "", bare.lower())
