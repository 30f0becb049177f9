"""Early exit for reinforcement-learning policies and image classifiers.

    agent = ztw_rl.load("pong")
    decision = agent.decide(frames)

    ee = ztw_rl.attach(network, example=images[:1])
    ee.fit(loader)

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from ztw_rl.api import EarlyExit, load
    from ztw_rl.attached.attach import attach
    from ztw_rl.attached.network import Attached, attach_blocks
    from ztw_rl.decision import Decision

__version__ = "0.1.0"
__all__ = [
    "Attached",
    "Decision",
    "EarlyExit",
    "UserError",
    "__version__",
    "attach",
    "attach_blocks",
    "load",
]


def __getattr__(name: str) -> object:
    if name in ("EarlyExit", "load"):
        from ztw_rl import api

        return getattr(api, name)
    if name == "attach":
        from ztw_rl.attached.attach import attach

        return attach
    if name in ("Attached", "attach_blocks"):
        from ztw_rl.attached import network

        return getattr(network, name)
    if name == "Decision":
        from ztw_rl.decision import Decision

        return Decision
    raise AttributeError(f"module 'ztw_rl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
