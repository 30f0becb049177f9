"""Models as tests make them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ztw_rl.core.gates import make_gates
from ztw_rl.core.model import METHODS, EarlyExitModel, Method
from ztw_rl.rl.networks import early_exit
from ztw_rl.rl.networks.config import NATURE_WIDTHS, NetworkConfig, Widths


def early_exit_nature_cnn(
    n_actions: int,
    exits: Sequence[str] = ("conv1", "conv2"),
    method: Method = METHODS["ztw"],
    gates: Sequence[str] = (),
) -> EarlyExitModel:
    """A policy on 4 frames of 84x84 with internal classifiers, its parameters random."""
    return early_exit.early_exit_policy(n_actions, NetworkConfig(), exits, method, gates)


def policy_alone(n_actions: int, widths: Widths = NATURE_WIDTHS) -> EarlyExitModel:
    """The same without internal classifiers."""
    return early_exit.policy_alone(n_actions, NetworkConfig(widths=widths))


class Scale(nn.Module):
    """Bytes to 0 … 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 255


def of_pixels(plain: EarlyExitModel) -> EarlyExitModel:
    """A model that reads bytes, of one that reads floats."""
    blocks = [nn.Sequential(Scale(), plain.blocks[0]), *plain.blocks[1:]]
    made = EarlyExitModel(blocks, plain.head, list(plain.ics), plain.attach, plain.ensemble)
    return made.eval().requires_grad_(False)


def gated(model) -> EarlyExitModel:
    """The same with a gate at each exit."""
    gates = make_gates([ic.n_pooled for ic in model.ics], 5, 10**6)
    for gate in gates:
        nn.init.normal_(gate.out.weight)
    made = EarlyExitModel(
        model.blocks, model.head, model.ics, model.attach, model.ensemble, {"regret": gates}
    )
    return made.eval().requires_grad_(False)
