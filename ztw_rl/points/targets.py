"""What an operating point can be asked for, of policies and of classifiers alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from ztw_rl.core.choice import Point, Target

DEFAULT = 0.9


@dataclass(frozen=True)
class Targets:
    """A threshold, or what it is chosen for; at most one of them."""

    threshold: float | None = None
    """Confidence above which an exit answers."""
    budget: float | None = None
    """The best that costs at most this share of the full network, such as 0.6."""
    keep: float | None = None
    """The cheapest that keeps this share of the full network's score, such as 0.95: of a policy's
    return over random play, or of a classifier's accuracy."""
    risk: float | None = None
    """The cheapest threshold at which at most this share of the answers, such as 0.02, differs from
    the full network's: the expected share, for any distribution, with --confidence."""
    confidence: float = 0.95
    """Of --risk."""
    cost: Literal["macs", "time"] = "macs"
    """What --budget and --keep count: operations, or measured time."""

    def __post_init__(self) -> None:
        given = [self.threshold, self.budget, self.keep, self.risk]
        if sum(value is not None for value in given) > 1:
            raise UserError(
                "--threshold, --budget, --keep and --risk exclude one another; give one"
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(
                f"--threshold must be between 0 and 1, not {self.threshold:g}; at 1 no exit "
                "answers before the last"
            )
        for name, wish in (("budget", self.budget), ("keep", self.keep)):
            # Far above 1, a percentage is meant.
            if wish is not None and not 0 < wish <= 10:
                raise UserError(
                    f"--{name} must be above 0 and at most 10, not {wish:g}: it is a share of the "
                    "full model's, such as 0.95"
                )
        for name, share in (("risk", self.risk), ("confidence", self.confidence)):
            if share is not None and not 0 < share < 1:
                raise UserError(f"--{name} must be between 0 and 1, not {share:g}")

    @property
    def target(self) -> Target | None:
        """What is wanted; None where a threshold is given, or nothing."""
        from ztw_rl.core.choice import Budget, Keep, Risk

        if self.budget is not None:
            return Budget(self.budget)
        if self.keep is not None:
            return Keep(self.keep)
        return None if self.risk is None else Risk(self.risk, self.confidence)

    @property
    def cost_word(self) -> str:
        """What a cost is a share of."""
        return "operations" if self.cost == "macs" else "time"

    def record(self) -> dict[str, Any]:
        """The target for an artefact's metadata."""
        if self.risk is not None:
            return {"risk": self.risk, "confidence": self.confidence}
        wish = {"keep": self.keep} if self.budget is None else {"budget": self.budget}
        return {**wish, "cost_counts": self.cost}


def flag(target: Target) -> str:
    """A target as it was asked for."""
    from ztw_rl.core.choice import Budget, Keep

    if isinstance(target, Budget):
        return f"--budget {target.cost:g}"
    return f"--keep {target.share:g}" if isinstance(target, Keep) else f"--risk {target.share:g}"


@dataclass(frozen=True)
class Proposal:
    """The operating point that a command takes, and why."""

    point: Point
    reasons: tuple[str, ...] = ()
    """Lines that say how it was chosen and what it is worth."""
    record: dict[str, Any] | None = None
    """The same for an artefact's metadata."""

    def each(self, n_ics: int) -> list[float]:
        """One threshold per IC."""
        return list(self.point.each(n_ics))

    def __str__(self) -> str:
        """In a few words."""
        return str(self.point)
