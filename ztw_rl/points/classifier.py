"""Which operating point a classifier is exported or timed with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ztw_rl.errors import UserError
from ztw_rl.points.targets import DEFAULT, Proposal, Targets, flag

if TYPE_CHECKING:
    from ztw_rl.core.choice import Choice, Outcome, Point, Target, Unreachable
    from ztw_rl.supervised.classifier import Classifier
    from ztw_rl.supervised.config import SelectedOn
    from ztw_rl.supervised.evaluate import Answers


@dataclass(frozen=True)
class ClassifierPoint(Targets):
    """A threshold, or what it is chosen for; at most one of them. 0.9 without any.

    It is chosen on held-out training images that neither backbone nor ICs saw, else on the test
    set; what it is worth is told of images that it was not chosen on.
    """

    per_exit: bool = False
    """With --budget: a threshold for each exit, the most accurate that are found."""
    cost_backend: str = "onnx"
    """What --cost time is measured on, for one image and one thread: eager, compiled or onnx."""
    data_path: str | None = None
    """Where the images are, if not where they were at training."""
    n_test: int | None = None
    """Use only this many test images, drawn at random."""
    device: str = "auto"
    """Where it is chosen: auto (CUDA where there is one), cpu, cuda, cuda:1, ..."""
    rule: Literal["confidence", "margin", "gate"] = "confidence"
    """With --budget, --keep or --risk: what exits are judged by. margin: how far the highest
    probability is above the second; gate: what train-ics learnt that leaving costs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.per_exit and self.budget is None:
            raise UserError("--per-exit needs --budget, such as --budget 0.6")
        if self.rule != "confidence" and self.target is None:
            raise UserError(f"--rule {self.rule} needs --budget, --keep or --risk")


def choose(point: ClassifierPoint, classifier: Classifier, path: Path) -> Proposal:
    """The operating point that is asked for.

    Args:
        point: What the user wants.
        classifier: Whose it is; its model ends on the CPU.
        path: Its folder.

    Raises:
        UserError: The images are missing, or nothing will do.
    """
    from ztw_rl.core.choice import Threshold, Unreachable

    target = point.target
    if target is None:
        return Proposal(Threshold(DEFAULT if point.threshold is None else point.threshold))
    from ztw_rl.core.device import resolve_device
    from ztw_rl.supervised.evaluate import collect_answers, data_of
    from ztw_rl.supervised.trial import worth

    device = resolve_device(point.device)
    if point.rule == "gate" and not classifier.config.run.training.gates:
        raise UserError(f"{path} has no gates; train-ics fits them, without --no-gates")
    costs = _costs(point, classifier.judged(point.rule))
    data = data_of(classifier, point.data_path, point.n_test)
    test = collect_answers(classifier, path, data, "test", device)
    held_out = None
    if classifier.config.run.selected_on == "held_out":
        held_out = collect_answers(classifier, path, data, "held_out", device)
    classifier.model.cpu()
    seen = test if held_out is None else held_out
    choice = pick(point, target, seen, costs)
    if isinstance(choice, Unreachable):
        raise UserError(f"{path}: {flag(target)} {choice.why}")
    if held_out is None:
        return cross_fitted(point, choice, test, "test images")
    found = worth(test, choice.point, costs)
    how = f"tried on {len(test):,} test images"
    told = [f"{choice.point} chosen on all {len(seen):,} held-out training images"]
    told += _guarantee(point)
    told.append(f"{how}: {_worth(point, found, test)}")
    return Proposal(choice.point, tuple(told), _record(point, found, len(seen), "held_out"))


def pick(
    point: ClassifierPoint, target: Target, seen: Answers, costs: tuple[float, ...]
) -> Choice | Unreachable:
    """What a target picks on images.

    Args:
        point: How it is asked for.
        target: What is wanted.
        seen: Answers to the images.
        costs: E costs of leaving at each exit, relative to the backbone's.
    """
    from ztw_rl.core import choice
    from ztw_rl.supervised.trial import choose_per_exit, points_for, trial_of

    if point.per_exit:
        assert isinstance(target, choice.Budget)
        return choose_per_exit(target, seen, costs, point.rule)
    points = points_for(target, seen, point.rule)
    return choice.choose(target, trial_of(seen, points, costs))


def cross_fitted(point: ClassifierPoint, choice: Choice, seen: Answers, images: str) -> Proposal:
    """A choice, and what one so made on a half of the images is worth on the other.

    Args:
        point: How it was asked for.
        choice: From ``pick``.
        seen: The answers that it was made on.
        images: What they are called.
    """
    told = [f"{choice.point} chosen on all {len(seen):,} {images}", *_guarantee(point)]
    if choice.expected is None:
        told.append("what it is worth cannot be told: a half of the images allows no choice")
    else:
        how = "chosen on one half of them and tried on the other, in turn"
        told.append(f"{how}: {_worth(point, choice.expected, seen)}")
    record = _record(point, choice.expected, len(seen), "cross_fit")
    return Proposal(choice.point, tuple(told), record)


def tried(
    point: ClassifierPoint,
    own: Point,
    seen: Answers,
    costs: tuple[float, ...],
    images: str,
) -> tuple[Proposal, Outcome]:
    """A point that the user names, and what it is worth.

    Args:
        point: How it was asked for.
        own: The point.
        seen: Answers to images.
        costs: See ``pick``.
        images: What they are called.
    """
    from ztw_rl.supervised.trial import worth

    found = worth(seen, own, costs)
    told = f"{own} on {len(seen):,} {images}: {_worth(point, found, seen)}"
    return Proposal(own, (told,)), found


def _guarantee(point: ClassifierPoint) -> list[str]:
    if point.risk is None:
        return []
    return [
        f"with confidence {point.confidence:g}, at most {point.risk:.1%} of images are "
        "answered otherwise than by the backbone"
    ]


def _worth(point: ClassifierPoint, found: Outcome, tried: Answers) -> str:
    """What a point does to images, in words."""
    return (
        f"{found.score:.2%} right (the backbone {tried.backbone_accuracy:.2%}) at "
        f"{found.cost:.3f} of the {point.cost_word}; "
        f"{found.disagreement:.2%} differ from the backbone"
    )


def _record(
    point: ClassifierPoint, found: Outcome | None, n_images: int, selected_on: SelectedOn
) -> dict[str, Any]:
    """The same for an artefact's metadata."""
    record = {**point.record(), "n_images": n_images, "selected_on": selected_on}
    if found is None:
        return record
    expected = {"accuracy" if k == "score" else k: v for k, v in asdict(found).items()}
    return record | {f"expected_{name}": value for name, value in expected.items()}


def _costs(point: ClassifierPoint, classifier: Classifier) -> tuple[float, ...]:
    """E costs of leaving at each exit, relative to the backbone's."""
    if point.cost == "macs":
        return classifier.relative_macs()
    from ztw_rl.core.backends.named import make_backend
    from ztw_rl.core.bench import time_exits

    x = classifier.example()
    return time_exits(make_backend(point.cost_backend, classifier.model, x), x).relative
