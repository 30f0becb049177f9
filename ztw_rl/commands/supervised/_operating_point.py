"""Which confidence threshold τ a classifier is exported or timed with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl.commands._targets import DEFAULT, Choice, check_targets
from ztw_rl.commands.supervised._answers import collect_answers, data_of
from ztw_rl.errors import UserError

if TYPE_CHECKING:
    from ztw_rl.supervised.calibration import Choose
    from ztw_rl.supervised.classifier import Classifier


@dataclass(frozen=True)
class ClassifierPoint:
    """A threshold, or what it is chosen for; at most one of them.

    It is chosen on held-out training images that neither backbone nor ICs saw, else on the test
    set; what it is worth is told of images that it was not chosen on.
    """

    threshold: float | None = None
    """Confidence above which an exit answers; 0.9 if nothing else is asked for."""
    budget: float | None = None
    """The largest threshold that costs at most this share of the backbone, such as 0.6."""
    keep: float | None = None
    """The cheapest threshold that keeps this share of the backbone's accuracy, such as 0.99."""
    risk: float | None = None
    """The smallest threshold at which at most this share of the images, such as 0.02, is answered
    otherwise than by the backbone: the expected share, for any distribution of images, with
    --confidence."""
    confidence: float = 0.95
    """Of --risk."""
    per_exit: bool = False
    """With --budget: a threshold for each exit, the most accurate that are found."""
    cost: Literal["macs", "time"] = "macs"
    """What --budget and --keep count: operations, or the time that each exit takes here, for one
    image and one thread."""
    cost_backend: str = "onnx"
    """What --cost time is measured on: eager, compiled or onnx."""
    data_path: str | None = None
    """Where the images are, if not where they were at training."""
    n_test: int | None = None
    """Use only this many test images, drawn at random."""
    device: str = "auto"
    """Where it is chosen: auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""

    def __post_init__(self) -> None:
        check_targets(
            threshold=self.threshold,
            budget=self.budget,
            keep=self.keep,
            risk=self.risk,
            confidence=self.confidence,
        )
        if self.per_exit and self.budget is None:
            raise UserError("--per-exit needs --budget, such as --budget 0.6")


def choose(point: ClassifierPoint, classifier: Classifier, path: Path) -> Choice:
    """The threshold that is asked for.

    Args:
        point: What the user wants.
        classifier: Whose threshold it is; its model ends on the CPU.
        path: Its folder.

    Raises:
        UserError: The images are missing, or no threshold will do.
    """
    if point.budget is None and point.keep is None and point.risk is None:
        return Choice(DEFAULT if point.threshold is None else point.threshold)
    from ztw_rl.core.device import resolve_device
    from ztw_rl.supervised.calibration import cross_fitted, worth

    device = resolve_device(point.device)
    costs = _costs(point, classifier)
    rule, record = _rule(point, costs)
    data = data_of(classifier, point.data_path, point.n_test)
    test = collect_answers(classifier, path, data, "test", device)
    held_out = None
    if classifier.config.run.selected_on == "held_out":
        held_out = collect_answers(classifier, path, data, "held_out", device)
    classifier.model.cpu()
    seen = test if held_out is None else held_out
    try:
        threshold = rule(seen)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if held_out is None:
        found = cross_fitted(rule, test, costs)
        images, how = "test images", "chosen on one half of them and tried on the other, in turn"
    else:
        found = worth(test, threshold, costs)
        images, how = "held-out training images", f"tried on {len(test):,} test images"
    told = [f"{Choice(threshold)} chosen on all {len(seen):,} {images}"]
    if point.risk is not None:
        told.append(
            f"with confidence {point.confidence:g}, at most {point.risk:.1%} of images are "
            "answered otherwise than by the backbone"
        )
    record |= {"n_images": len(seen), "selected_on": classifier.config.run.selected_on}
    if found is None:
        told.append("what it is worth cannot be told: a half of the images allows no threshold")
    else:
        told.append(
            f"{how}: {found.accuracy:.2%} right (the backbone {test.backbone_accuracy:.2%}) at "
            f"{found.cost:.3f} of the {'operations' if point.cost == 'macs' else 'time'}; "
            f"{found.disagreement:.2%} differ from the backbone"
        )
        record |= {f"expected_{name}": value for name, value in asdict(found).items()}
    return Choice(threshold, tuple(told), record)


def _costs(point: ClassifierPoint, classifier: Classifier) -> tuple[float, ...]:
    """E costs of leaving at each exit, relative to the backbone's."""
    if point.cost == "macs":
        return classifier.relative_macs()
    from ztw_rl.core.backends.named import make_backend
    from ztw_rl.core.timing import time_exits

    x = classifier.example()
    return time_exits(make_backend(point.cost_backend, classifier.model, x), x).relative


def _rule(point: ClassifierPoint, costs: tuple[float, ...]) -> tuple[Choose, dict[str, Any]]:
    """How to choose, and what an artefact remembers of it."""
    from ztw_rl.supervised import calibration

    if point.risk is not None:
        record = {"risk": point.risk, "confidence": point.confidence}
        return calibration.controlling(point.risk, point.confidence), record
    if point.keep is not None:
        rule = calibration.keeping(point.keep, costs)
        return rule, {"keep": point.keep, "cost_counts": point.cost}
    assert point.budget is not None
    within = calibration.within_per_exit if point.per_exit else calibration.within
    return within(point.budget, costs), {"budget": point.budget, "cost_counts": point.cost}
