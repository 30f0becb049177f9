"""Whether an agent may have weights of eight bits: its own games say so."""

from __future__ import annotations

from dataclasses import dataclass

from ztw_rl.core.backends.litert.agreement import share_changed
from ztw_rl.core.backends.litert.backend import one_file
from ztw_rl.core.backends.named import make_backend
from ztw_rl.core.choice import Point
from ztw_rl.core.runtime import Runtime
from ztw_rl.errors import UserError
from ztw_rl.rl.agent import Agent
from ztw_rl.rl.frames import play_frames

N_OBSERVATIONS = 10_000
MOST_CHANGED = 0.001
"""Share of the observations at which another action is borne with."""


@dataclass(frozen=True)
class Rounded:
    """How weights of eight bits fared on an agent's own observations."""

    n_observations: int
    changed: float
    """Share of them at which any exit's likeliest action is another."""

    def __str__(self) -> str:
        return (
            f"int8 weights change some exit's action at {self.changed:.2%} of "
            f"{self.n_observations:,} observations"
        )


def rounded_weights(agent: Agent, point: Point, seed: int) -> Rounded:
    """Let an agent play, and see whether weights of eight bits change what it does.

    Raises:
        UserError: They do at more than ``MOST_CHANGED``, or LiteRT cannot run the agent.
    """
    model, x = agent.at(point).model, agent.example()
    # It finds out whether there is anything to round, before minutes of games.
    one_file(model, x, "action", {}, "int8")
    runtime = Runtime(
        make_backend("litert", model, x), x, point.each(model.n_exits - 1), model.rule
    )
    frames = play_frames(agent, runtime, N_OBSERVATIONS, seed)
    rounded = Rounded(len(frames), share_changed(model, frames))
    if rounded.changed > MOST_CHANGED:
        raise UserError(f"{rounded}, more than {MOST_CHANGED:.1%}; leave out --weights")
    return rounded
