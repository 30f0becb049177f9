"""What Stable-Baselines3 saves, read without executing any of its pickles."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ztw_rl.errors import UserError
from ztw_rl.rl.networks.config import Activation

POLICY_ENTRY = "policy.pth"
DATA_ENTRY = "data"


@dataclass(frozen=True)
class About:
    """What the file says of the policy beside its weights; None where it does not."""

    activation: Activation | None = None
    shape: tuple[int, ...] | None = None
    """Of one observation, as the environment gave it."""
    scales_images: bool = True
    """Whether it divides pixels by 255, as policies do by default."""


def read_zip(path: Path) -> tuple[About, Mapping[str, Tensor]]:
    """The policy's parameters under SB3's names, and what else the file tells in plain text.

    Args:
        path: What a model's ``save`` wrote.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = archive.read(POLICY_ENTRY)
            told = archive.read(DATA_ENTRY) if DATA_ENTRY in archive.namelist() else b"{}"
        parameters = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except KeyError:
        raise UserError(f"{path} holds no '{POLICY_ENTRY}'; is it an SB3 model?") from None
    except Exception as error:
        # Some errors, such as that of an empty file, say nothing but their name.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read as an SB3 model ({reason})") from None
    if not isinstance(parameters, Mapping) or not all(
        isinstance(value, Tensor) for value in parameters.values()
    ):
        raise UserError(f"{path}: '{POLICY_ENTRY}' holds something else than weights")
    return _about(told), parameters


def _about(told: bytes) -> About:
    """What is told in plain text beside the pickles; nothing of what cannot be read."""
    try:
        data = json.loads(told)
    except (ValueError, RecursionError):
        return About()
    if not isinstance(data, dict):
        return About()
    kwargs = data.get("policy_kwargs")
    # What is stored beside a pickle is text.
    told_off = isinstance(kwargs, Mapping) and kwargs.get("normalize_images") in (False, "False")
    return About(_activation(data), _shape(data.get("observation_space")), not told_off)


def _activation(data: Mapping[str, Any]) -> Activation | None:
    """Of the hidden layers: the policy's own, or the default of its class."""
    kwargs = data.get("policy_kwargs")
    given = kwargs.get("activation_fn") if isinstance(kwargs, Mapping) else None
    if given is not None:
        named: dict[str, Activation] = {"ReLU'": "relu", "Tanh'": "tanh"}
        return next(
            (name for end, name in named.items() if str(given).strip(">").endswith(end)), None
        )
    policy = data.get("policy_class")
    module = str(policy.get("__module__")) if isinstance(policy, Mapping) else ""
    defaults: dict[str, Activation] = {
        "stable_baselines3.dqn.policies": "relu",
        "stable_baselines3.common.policies": "tanh",
    }
    return defaults.get(module)


def _shape(space: object) -> tuple[int, ...] | None:
    shape = space.get("_shape") if isinstance(space, Mapping) else None
    if isinstance(shape, list) and all(isinstance(n, int) for n in shape):
        return tuple(shape)
    return None
