"""Confidence thresholds as a user writes them."""

from __future__ import annotations

from ztw_rl.errors import UserError

MOST = 1000
"""Thresholds in one range; a step that gives more is a slip of the pen."""


def parse_thresholds(text: str) -> list[float]:
    """Confidence thresholds from ``start:stop[:step]`` (stop included) or ``a,b,c``, each once.

    Args:
        text: Such as ``0.1:0.9``, which has a step of 0.1.

    Raises:
        UserError: The text is no such list, or holds nothing.
    """

    def number(part: str) -> float:
        try:
            value = float(part)
        except ValueError:
            raise UserError(
                f"thresholds '{text}': '{part}' is no number; write 0.1:0.9 or 0.5,0.7"
            ) from None
        if not 0 <= value < float("inf"):
            raise UserError(f"thresholds '{text}': {part} is not a confidence, 0 or more")
        return value

    if ":" not in text:
        return list(dict.fromkeys(number(part) for part in text.split(",")))
    parts = [number(part) for part in text.split(":")]
    if len(parts) > 3:
        raise UserError(f"thresholds '{text}': write start:stop or start:stop:step")
    start, stop, step = (*parts, 0.1)[:3]
    if step == 0:
        raise UserError(f"thresholds '{text}': the step must be above 0")
    if stop < start:
        raise UserError(f"thresholds '{text}' go down; write {parts[1]:g}:{parts[0]:g}")
    n_steps = (stop - start) / step + 1e-9
    if n_steps >= MOST:
        raise UserError(f"thresholds '{text}' are {n_steps + 1:.7g}; write at most {MOST}")
    # Steps add up to 0.30000000000000004 and the like.
    return list(dict.fromkeys(round(start + i * step, 10) for i in range(int(n_steps) + 1)))
