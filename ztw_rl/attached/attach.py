"""``attach``: exits on a torch network, or on a policy of Stable-Baselines3."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from torch import Tensor, nn

from ztw_rl.attached.network import Attached, attach_network
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from ztw_rl.attached.policy import AttachedPolicy
    from ztw_rl.rl.config import MethodName
    from ztw_rl.rl.live import Model


@overload
def attach(
    network: nn.Module,
    *,
    example: Tensor,
    exits: int | Sequence[str] = 3,
    method: str = "ztw",
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> Attached: ...


@overload
def attach(
    network: Model,
    *,
    env: VecEnv,
    exits: Sequence[str] | None = None,
    method: MethodName = "ztw",
    temperature: float = 1.0,
    seed: int = 0,
) -> AttachedPolicy: ...


def attach(network: nn.Module | Model, **settings: Any) -> Attached | AttachedPolicy:
    """Hang early exits on a trained classifier, or on a policy of Stable-Baselines3.

    Example:
        >>> ee = ztw_rl.attach(network, example=images[:1], exits=3)
        >>> ee.fit(loader)
        >>> ee.calibrate(held_out, budget=0.6)
        >>> ee.decide(images).labels

        >>> agent = ztw_rl.attach(model, env=env).distill(n_timesteps=200_000)
        >>> agent.predict(observations)

    Args:
        network: A torch module, or a trained PPO, A2C or DQN.
        **settings: Of ``network.attach_network`` or of ``policy.attach_policy``.

    Raises:
        UserError: It is neither, or cannot be cut, or a setting is missing or unknown.
    """
    if isinstance(network, nn.Module):
        _check_settings(network, settings, attach_network, "example")
        return attach_network(network, **settings)
    if not hasattr(network, "policy"):
        raise UserError(
            f"what exits hang on must be a torch module or a Stable-Baselines3 model, not "
            f"{network!r}"
        )
    from ztw_rl.attached.policy import attach_policy

    _check_settings(network, settings, attach_policy, "env")
    return attach_policy(network, **settings)


def _check_settings(
    network: object, settings: Mapping[str, object], make: Callable[..., object], needed: str
) -> None:
    """What is set is known, and what is needed is there.

    Raises:
        UserError: It is not.
    """
    known, kind = inspect.signature(make).parameters, type(network).__name__
    if needed not in settings:
        raise UserError(f"attach needs {needed}= for a {kind}")
    for name in settings:
        if name not in known:
            listed = ", ".join([*known][1:])
            raise UserError(f"attach knows no {name}= for a {kind}; it takes {listed}")
