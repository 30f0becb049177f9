"""The control that a user would pick instead of early exit: a narrower network of equal cost.

It is a NatureCNN with fewer channels, as dear as leaving the full one at a given exit, and learns
from the teacher's answers while it acts itself, as internal classifiers (ICs) do. During
distillation it therefore *is* an IC: one that reads the pixels, beside a trunk of its teacher's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ztw_rl.core.cost import exit_costs
from ztw_rl.core.model import EarlyExitModel, ExitOutput
from ztw_rl.rl.networks.config import ATARI_FRAME, NATURE_WIDTHS, NetworkConfig, Widths
from ztw_rl.rl.networks.early_exit import early_exit_policy, policy_alone
from ztw_rl.rl.networks.layers import RELU_GAIN, orthogonal_

if TYPE_CHECKING:
    from ztw_rl.rl.collector import Experience

HEAD_GAIN = 0.01
"""Of the first weights of the layer that answers: all actions begin about equally likely."""


def macs(widths: Widths, n_actions: int) -> int:
    """Multiply-accumulates of a NatureCNN.

    Args:
        widths: Channels of the three convolutions, and features.
        n_actions: Size of the action space.
    """
    first, second, third, features = widths
    convolutions = (
        20**2 * first * ATARI_FRAME[0] * 8**2
        + 9**2 * second * first * 4**2
        + 7**2 * third * second * 9
    )
    return convolutions + (third * 7**2 + n_actions) * features


def widths_for(target: int, n_actions: int) -> Widths:
    """The NatureCNN of a given cost whose layers shrink most nearly alike.

    The convolutions keep their proportions, and the features take up what is left: few steps of
    one channel would meet the target otherwise.

    Args:
        target: Multiply-accumulates.
        n_actions: Size of the action space.
    """
    candidates = []
    for first in range(1, NATURE_WIDTHS[0] + 1):
        channels = (first, *(first * w // NATURE_WIDTHS[0] for w in NATURE_WIDTHS[1:3]))
        without = macs((*channels, 0), n_actions)
        features = round((target - without) / (channels[2] * 7**2 + n_actions))
        if features > 0:
            candidates.append((*channels, features))
    return min(candidates, key=lambda w: abs(w[3] / NATURE_WIDTHS[3] - w[0] / NATURE_WIDTHS[0]))


def exit_macs(n_actions: int, exits: Sequence[str], place: str) -> int:
    """Multiply-accumulates of the early-exit network for a sample that leaves at ``place``.

    Args:
        n_actions: Size of the action space.
        exits: Places of the ICs.
        place: One of them.

    Raises:
        UserError: There are no such exits.
    """
    model = early_exit_policy(n_actions, NetworkConfig(), exits).eval()
    pixels = torch.zeros(1, *ATARI_FRAME, dtype=torch.uint8)
    return exit_costs(model, pixels).macs[list(exits).index(place)]


class Student(nn.Module):
    """A whole policy in the place of an IC, on the pixels.

    Args:
        n_actions: Size of the action space.
        widths: Of its layers.
    """

    def __init__(self, n_actions: int, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.policy = policy_alone(n_actions, NetworkConfig(widths=widths))

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, D) what its head reads."""
        return self.policy.segments[0].read(pixels)

    def answer(self, pooled: Tensor, previous: Tensor | None = None) -> Tensor:
        """(B, A) logits; it is the first, so there is no ``previous``."""
        logits: Tensor = self.policy.head(pooled)
        return logits

    def forward(self, pixels: Tensor, previous: Tensor | None = None) -> Tensor:
        """(B, A) logits from pixels."""
        return self.answer(self.pooled(pixels), previous)


def beside_teacher(
    teacher: Mapping[str, Tensor], exits: Sequence[str], place: str
) -> EarlyExitModel:
    """The teacher's network with a student, yet to be fitted, as its only IC.

    Args:
        teacher: The policy's parameters, under ``EarlyExitModel``'s names.
        exits: Places of the ICs that the student stands in for.
        place: The one whose operations it matches.

    Raises:
        UserError: There are no such exits.
    """
    n_actions = len(teacher["head.bias"])
    full = policy_alone(n_actions, NetworkConfig())
    full.load_state_dict(dict(teacher))
    student = Student(n_actions, widths_for(exit_macs(n_actions, exits, place), n_actions))
    # As SB3 begins the policies that students are held against.
    orthogonal_(student.policy, RELU_GAIN)
    orthogonal_(student.policy.head, HEAD_GAIN)
    # What comes before the student is nothing.
    return EarlyExitModel([nn.Identity(), *full.blocks], full.head, [student], attach=[1])


def student_of(model: EarlyExitModel) -> Student:
    """The student in a model that ``beside_teacher`` made."""
    (student,) = model.ics
    assert isinstance(student, Student)
    return student


class StudentPhase:
    """Fits the student, all of it, on the kept pixels; see ``phases.Phase``."""

    name = "student"

    def __init__(self, model: EarlyExitModel, batch_size: int) -> None:
        self._student = student_of(model)
        self.batch_size = batch_size

    def parameters(self) -> Iterable[Tensor]:
        """See ``phases.Phase``."""
        return self._student.parameters()

    def on_pixels(self) -> Iterable[Tensor]:
        """See ``phases.Phase``: all."""
        return self.parameters()

    def answers(self, ic_log_probs: Tensor) -> Tensor:
        """See ``phases.Phase``: the student speaks for itself."""
        return ic_log_probs

    def reads(self, ics: Sequence[ExitOutput]) -> tuple[Tensor, ...]:
        """See ``phases.Phase``: nothing but the pixels, which are kept anyway."""
        return ()

    def predict(self, experience: Experience, index: Tensor) -> Tensor:
        """See ``phases.Phase``."""
        device = next(self._student.parameters()).device
        pixels = experience.observations[index].to(device)
        return torch.log_softmax(self._student(pixels), dim=-1).unsqueeze(1)

    def calls(self, m: int) -> str:
        """See ``phases.Phase``."""
        return "the student"
