"""A classifier's threshold with a guarantee on how often early exit changes an answer."""

from __future__ import annotations

from collections.abc import Sequence

from ztw_rl.core.calibration import controlling_risk, disagreement
from ztw_rl.core.sweep import confidences
from ztw_rl.supervised.evaluate import Answers

CANDIDATES = tuple(k / 1000 for k in range(1001))
"""Fixed before any image is seen, as the guarantee asks."""


def controlled_threshold(
    answers: Answers,
    risk: float,
    confidence: float = 0.95,
    candidates: Sequence[float] = CANDIDATES,
) -> float | None:
    """The smallest threshold that rarely contradicts the backbone, guaranteed; no labels needed.

    Args:
        answers: Of images like those met later, which neither backbone nor ICs were trained on.
        risk: Largest expected share of images whose label differs from the backbone's.
        confidence: Probability, over the draw of the images, that the guarantee holds.
        candidates: Thresholds, rising, not chosen by looking at these images.

    Returns:
        τ for ``exits.Confidence`` with the fallback ``exits.last``; None if none can be shown to
        be safe.

    Raises:
        UserError: ``risk`` or ``confidence`` is not between 0 and 1.
    """
    losses = disagreement(
        confidences(answers.log_probs).numpy(),
        answers.log_probs.argmax(dim=-1).numpy(),
        answers.backbone.numpy(),
        candidates,
    )
    return controlling_risk(candidates, losses, risk, confidence)
