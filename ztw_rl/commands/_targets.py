"""What thresholds can be chosen for, of policies and of classifiers alike."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from ztw_rl.errors import UserError

DEFAULT = 0.9


@dataclass(frozen=True)
class Choice:
    """The threshold that is asked for."""

    threshold: float | tuple[float, ...]
    """τ of all ICs, or of each."""
    reasons: tuple[str, ...] = ()
    """Lines that say how it was chosen and what it is worth."""
    record: dict[str, Any] | None = None
    """The same for an artefact's metadata."""

    def each(self, n_ics: int) -> list[float]:
        """One threshold per IC."""
        if isinstance(self.threshold, tuple):
            return list(self.threshold)
        return [self.threshold] * n_ics

    def __str__(self) -> str:
        """In a few words."""
        if isinstance(self.threshold, tuple):
            return f"thresholds {min(self.threshold):g} to {max(self.threshold):g}"
        return f"threshold {self.threshold:g}"


def check_targets(
    *,
    threshold: float | None,
    budget: float | None,
    keep: float | None,
    risk: float | None,
    confidence: float,
) -> None:
    """Find out whether the flags that ask for a threshold make sense together.

    Raises:
        UserError: More than one is given, or a value is out of range.
    """
    if sum(value is not None for value in (threshold, budget, keep, risk)) > 1:
        raise UserError("--threshold, --budget, --keep and --risk exclude one another; give one")
    if threshold is not None and not 0 <= threshold < inf:
        raise UserError(
            f"--threshold must be finite and at least 0, not {threshold:g}; above 1 no exit "
            "answers before the last"
        )
    for name, wish in (("budget", budget), ("keep", keep)):
        # Far above 1, a percentage is meant.
        if wish is not None and not 0 < wish <= 10:
            raise UserError(
                f"--{name} is a share of the full model's, such as 0.6, and must be above 0 and "
                f"at most 10, not {wish:g}"
            )
    for name, share in (("risk", risk), ("confidence", confidence)):
        if share is not None and not 0 < share < 1:
            raise UserError(f"--{name} must be between 0 and 1, not {share:g}")
