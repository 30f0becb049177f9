"""What an exit's answer is judged by: one number per sample, higher where it should leave.

An exit answers where its signal exceeds a bound. The two signals here need nothing but the answer
itself; those of ``core.gates`` are learnt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Signal(nn.Module, ABC):
    """From what an exit knows to one number per sample; NaN where that is broken."""

    @abstractmethod
    def forward(self, pooled: Tensor, log_probs: Tensor) -> Tensor:
        """The signal of an exit.

        Args:
            pooled: (B, D), the pooled features that its linear layer reads.
            log_probs: (B, C), the exit's answer.

        Returns:
            (B,).
        """


class Confidence(Signal):
    """The answer's highest probability."""

    def forward(self, pooled: Tensor, log_probs: Tensor) -> Tensor:
        """See ``Signal``."""
        return log_probs.amax(dim=-1).exp()


class Margin(Signal):
    """The answer's highest probability less its second highest."""

    def forward(self, pooled: Tensor, log_probs: Tensor) -> Tensor:
        """See ``Signal``."""
        return margins(log_probs)


def margins(log_probs: Tensor) -> Tensor:
    """The highest probability less the second highest.

    Args:
        log_probs: (…, C), two classes or more.

    Returns:
        (…).
    """
    top = log_probs.topk(2, dim=-1).values.exp()
    return top[..., 0] - top[..., 1]
