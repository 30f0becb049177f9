"""Layers that have fallen silent: their ReLU answers 0, whatever comes in.

No gradient passes such a layer, so neither it nor what lies before it ever learns again, while the
loss, which the layers behind it still lower a little, looks like that of a slow learner.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

N_LOOKS = 20
"""Looks in a row that it takes: a single minibatch may leave a healthy layer at 0."""


class DeadReluWatch:
    """Notices modules that a silent layer has cut off from part of what they should learn.

    Args:
        modules: What learns; parameters that are frozen or have no part in the loss are passed
            over.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._looks_at_zero: list[dict[str, int]] = [{} for _ in self._modules]
        self._told: set[int] = set()

    def look(self) -> list[int]:
        """Look at the gradients of the last minibatch.

        Where all gradients are 0, nothing is left to learn, and that is no silence: behind a
        silent layer the last bias still has one.

        Returns:
            Modules of which some parameter had gradient 0, exactly and everywhere, at this look
            and the ``N_LOOKS − 1`` before it while another had not; each is told once only.
        """
        new = []
        for m, (module, counts) in enumerate(zip(self._modules, self._looks_at_zero, strict=True)):
            learns = _gradients(module)
            at_zero = {name for name, gradient in learns.items() if not gradient.any()}
            before = dict(counts)
            counts.clear()
            if len(at_zero) < len(learns):
                counts.update({name: before.get(name, 0) + 1 for name in at_zero})
            if m not in self._told and max(counts.values(), default=0) >= N_LOOKS:
                self._told.add(m)
                new.append(m)
        return new


def _gradients(module: nn.Module) -> dict[str, Tensor]:
    """Of the parameters that learn, by name."""
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is not None
    }
