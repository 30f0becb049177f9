"""What is compared in reports: a method, and what sets it apart from the game's own agent."""

from __future__ import annotations

from dataclasses import dataclass

ORDER = ("ztw", "cascade", "ensemble", "sdn", "pbee", "student")
"""Of tables and legends: the paper's own method first."""


@dataclass(frozen=True)
class Method:
    """A method as it is compared with others; ``str`` gives its label."""

    name: str
    """Such as ``ztw`` or ``pbee``; ``backbone`` is the full policy."""
    patient: bool = False
    """Whether its exits leave by patience where the name does not say so."""
    exits: tuple[str, ...] = ()
    """Places of its ICs, where they are others than those of the game's own agent."""
    variant: str = ""
    """Name of the variant that played it, where places do not tell it."""
    sampled: bool = False
    """Whether actions are sampled rather than greedy."""
    control: str = ""
    """How exits are chosen instead of by the rule."""
    settings: tuple[str, ...] = ()
    """The only ones that it may choose from."""

    @property
    def qualifiers(self) -> tuple[str, ...]:
        """What sets it apart, in words."""
        said = (
            "patience" if self.patient else "",
            f"exits {' '.join(self.exits)}" if self.exits else "",
            self.variant,
            "sampled" if self.sampled else "",
            self.control,
            f"at {' '.join(self.settings)}" if self.settings else "",
        )
        return tuple(filter(None, said))

    def __str__(self) -> str:
        return ", ".join((self.name, *self.qualifiers))

    @property
    def rank(self) -> tuple[int, str]:
        """Sorts methods: plain ones in ``ORDER``, then the others."""
        place = ORDER.index(self.name) if self.name in ORDER else len(ORDER)
        return bool(self.qualifiers) * (len(ORDER) + 1) + place, str(self)
