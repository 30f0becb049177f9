"""Policies of Stable-Baselines3 by the names and shapes of their parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ztw_rl.core.model import EarlyExitModel
from ztw_rl.errors import UserError
from ztw_rl.rl.networks.config import Activation, NetworkConfig, Trunk
from ztw_rl.rl.networks.layers import policy_blocks

Algorithm = Literal["actor-critic", "dqn"]
"""PPO and A2C have actors and critics; DQN has values of actions."""

EXTRACTOR: dict[Algorithm, str] = {
    "actor-critic": "features_extractor.",
    "dqn": "q_net.features_extractor.",
}
"""What the names of the trunk's parameters begin with."""
HIDDEN: dict[Algorithm, str] = {
    "actor-critic": "mlp_extractor.policy_net.",
    "dqn": "q_net.q_net.",
}
"""The same of the hidden layers; DQN's head is the last of them."""

FOREIGN = {
    "lstm_actor.": "is recurrent; only policies without memory can answer early",
    "log_std": "has continuous actions; only policies with discrete actions can answer early",
    "actor.": "has continuous actions; only policies with discrete actions can answer early",
    "quantile_net.": "is a QR-DQN, which is not supported; take PPO, A2C or DQN",
    "features_extractor.extractors.": "reads several observations at once (Dict); add a wrapper "
    "that makes one array of them",
    "mlp_extractor.shared_net.": "was saved by a Stable-Baselines3 before 2.0; load and save it "
    "with a newer one",
}
"""What the name of a parameter says of policies that are not supported."""


@dataclass(frozen=True)
class Sb3Policy:
    """Parameters of a policy under Stable-Baselines3's names, and what they are of."""

    parameters: Mapping[str, Tensor]
    algorithm: Algorithm
    network: NetworkConfig
    n_actions: int


def recognise(
    parameters: Mapping[str, Tensor],
    input_shape: tuple[int, ...],
    activation: Activation,
    source: str,
) -> Sb3Policy:
    """What kind of policy some parameters are.

    Args:
        parameters: The policy's ``state_dict``.
        input_shape: Of one observation, (C, H, W) or (D,).
        activation: Behind each hidden layer, which parameters do not tell.
        source: Where they come from, for the error.

    Raises:
        UserError: It is none that is supported, or does not read such observations.
    """
    for begin, why in FOREIGN.items():
        if any(name.startswith(begin) for name in parameters):
            raise UserError(f"{source} {why}")
    dqn = any(name.startswith("q_net.") for name in parameters)
    algorithm: Algorithm = "dqn" if dqn else "actor-critic"
    layers = _linear_layers(parameters, HIDDEN[algorithm])
    head = layers.pop() if dqn and layers else parameters.get("action_net.weight")
    if head is None or head.ndim != 2:
        raise UserError(f"{source} holds no policy of PPO, A2C or DQN with discrete actions")
    trunk, widths = _trunk(parameters, EXTRACTOR[algorithm], source)
    network = NetworkConfig(
        input_shape=input_shape,
        trunk=trunk,
        widths=widths,
        hidden=tuple(len(layer) for layer in layers),
        activation=activation if layers else "relu",
    )
    return Sb3Policy(parameters, algorithm, network, len(head))


def _linear_layers(parameters: Mapping[str, Tensor], prefix: str) -> list[Tensor]:
    """Weights of a stack of linear layers with activations between them."""
    found: list[Tensor] = []
    while (weight := parameters.get(f"{prefix}{2 * len(found)}.weight")) is not None:
        found.append(weight)
    return found


def _trunk(
    parameters: Mapping[str, Tensor], prefix: str, source: str
) -> tuple[Trunk, tuple[int, ...]]:
    """The kind of the features extractor, and its widths."""
    own = {name.removeprefix(prefix) for name in parameters if name.startswith(prefix)}
    if not own:
        return "mlp", ()
    width = {name: len(parameters[prefix + name]) for name in own}
    nature = ("cnn.0.weight", "cnn.2.weight", "cnn.4.weight", "linear.0.weight")
    if own == {*nature, *(name.replace("weight", "bias") for name in nature)}:
        return "nature", tuple(width[name] for name in nature)
    n_stages = len({name.split(".")[1] for name in own if re.match(r"stages\.\d+\.0\.", name)})
    stages = [f"stages.{n}.0.weight" for n in range(n_stages)]
    if n_stages and {*stages, "linear.weight"} <= own:
        return "impala", tuple(width[name] for name in (*stages, "linear.weight"))
    raise UserError(
        f"{source} has a features extractor of its own ('{prefix}{min(own)}'); only NatureCNN, "
        "IMPALA-CNN and MlpPolicy are known from a file"
    )


def layer_names(network: NetworkConfig, algorithm: Algorithm) -> Iterator[tuple[str, str]]:
    """Our name of each layer, and Stable-Baselines3's, as the beginnings of parameters' names.

    Args:
        network: The policy's layers.
        algorithm: What trained it.
    """
    extractor, hidden = EXTRACTOR[algorithm], HIDDEN[algorithm]
    n_parts = len(network.widths) - 1
    if network.trunk == "nature":
        for n in range(n_parts):
            yield f"blocks.{n + 1}.0.", f"{extractor}cnn.{2 * n}."
        yield f"blocks.{n_parts + 1}.1.", f"{extractor}linear.0."
    elif network.trunk == "impala":
        for n in range(n_parts):
            yield f"blocks.{n + 1}.", f"{extractor}stages.{n}."
        yield f"blocks.{n_parts + 1}.2.", f"{extractor}linear."
    first = len(network.blocks) - len(network.hidden)
    for n in range(len(network.hidden)):
        flattens = n == 0 and network.trunk == "mlp" and len(network.input_shape) == 3
        yield f"blocks.{first + n}.{int(flattens)}.", f"{hidden}{2 * n}."
    last = "action_net." if algorithm == "actor-critic" else f"{hidden}{2 * len(network.hidden)}."
    yield "head.", last


def from_sb3(policy: Sb3Policy, source: str, temperature: float = 1.0) -> dict[str, Tensor]:
    """The policy's own parameters; a value net beside it is left out.

    Values of actions become logits: the policy is their softmax at a temperature.

    Args:
        policy: What ``recognise`` gave.
        source: Where it comes from, for the error.
        temperature: Of DQN's values, in their own unit.

    Returns:
        Parameters under ``EarlyExitModel``'s names, without any of the ICs'.

    Raises:
        UserError: The policy reads other observations than ``network`` says, or a temperature is
            given that it does not have.
    """
    if temperature != 1 and policy.algorithm != "dqn":
        raise UserError(f"{source} is no DQN, so it has no temperature; leave it out")
    blocks, head = policy_blocks(policy.network, policy.n_actions)
    wanted = EarlyExitModel(blocks, head, ics=[], attach=[]).state_dict()
    names = dict(layer_names(policy.network, policy.algorithm))
    found = {}
    for ours, own in wanted.items():
        begin = next(begin for begin in names if ours.startswith(begin))
        theirs = names[begin] + ours.removeprefix(begin)
        tensor = policy.parameters.get(theirs)
        if tensor is None or tensor.shape != own.shape:
            shape = "missing" if tensor is None else f"{tuple(tensor.shape)}"
            raise UserError(
                f"{source} does not read observations of {_shape(policy.network.input_shape)}: "
                f"'{theirs}' is {shape}, expected {tuple(own.shape)}"
            )
        # DQN's head gives values.
        scaled = policy.algorithm == "dqn" and ours.startswith("head.")
        found[ours] = tensor / temperature if scaled else tensor
    return found


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape} ({math.prod(shape):,} numbers)" if len(shape) == 1 else str(shape)
