"""Layers that have fallen silent: their ReLU answers 0, whatever comes in.

No gradient passes such a layer, so neither it nor what lies before it ever learns again, while the
loss, which the layers behind it still lower a little, looks like that of a slow learner.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class SilenceWatch:
    """Notices modules that a silent layer has cut off from part of what they should learn.

    A single minibatch may leave a healthy layer at 0, so only what was so at all looks counts.

    Args:
        modules: What learns; parameters that are frozen or have no part in the loss are passed
            over.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._cut_off: list[set[str]] | None = None
        self._told: set[int] = set()

    def look(self) -> None:
        """Look at the gradients of the last minibatch."""
        now = [
            {name for name, parameter in module.named_parameters() if _is_cut_off(parameter)}
            for module in self._modules
        ]
        then = now if self._cut_off is None else self._cut_off
        self._cut_off = [a & b for a, b in zip(now, then, strict=True)]

    def silent(self) -> list[int]:
        """Modules of which some parameter had gradient 0 at every look since the last question.

        Returns:
            Their numbers, in order, each once only: the next answer leaves them out.
        """
        found = [m for m, names in enumerate(self._cut_off or []) if names]
        new = [m for m in found if m not in self._told]
        self._told.update(new)
        self._cut_off = None
        return new


def _is_cut_off(parameter: Tensor) -> bool:
    """Whether the gradient of a parameter that learns is 0, exactly and everywhere."""
    gradient = parameter.grad
    return parameter.requires_grad and gradient is not None and not gradient.any()
