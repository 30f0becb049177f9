"""Accuracy against cost: everything follows from one pass over the images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from ztw_rl.core.cost import hindsight_improvability
from ztw_rl.core.exits import last, most_confident
from ztw_rl.core.gates import GateSamples, regrets
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.signals import margins
from ztw_rl.core.sweep import (
    Curve,
    agreements,
    confidences,
    even_thresholds,
    patience_thresholds,
    quantile_thresholds,
    sweep,
)
from ztw_rl.decision import Rule
from ztw_rl.errors import UserError
from ztw_rl.supervised.budgets import BUDGETS, BudgetPoint, cross_fitted, point, transferred
from ztw_rl.supervised.cache import said
from ztw_rl.supervised.config import FallbackName, SelectedOn
from ztw_rl.supervised.data.source import Source

if TYPE_CHECKING:
    from ztw_rl.supervised.classifier import Classifier
    from ztw_rl.supervised.config import DataConfig
    from ztw_rl.supervised.data.datasets import Split

FALLBACKS = {"last": last, "most_confident": most_confident}
RuleName = Literal[Rule, "patience"]


@dataclass(frozen=True)
class Answers:
    """What every exit says of every image."""

    log_probs: Tensor
    """(N, E, C), ensembled where the method ensembles."""
    backbone: Tensor
    """(N,) int64: what the backbone alone says."""
    labels: Tensor
    """(N,) int64."""
    signals: Tensor | None = None
    """(N, E−1): minus the regret that gates predict, if there are any."""

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def at(self, index: Tensor) -> Answers:
        """Those to some of the images.

        Args:
            index: (n,) int64.
        """
        signals = None if self.signals is None else self.signals[index]
        return Answers(self.log_probs[index], self.backbone[index], self.labels[index], signals)

    @property
    def backbone_accuracy(self) -> float:
        """Share of the images that the backbone alone gets right."""
        return (self.backbone == self.labels).double().mean().item()


@torch.inference_mode()
def collect(
    model: EarlyExitModel,
    source: Source,
    batch_size: int = 256,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Answers:
    """Run the whole network over all images, once.

    Args:
        model: In eval mode, on the source's device.
        source: The images; where it knows no labels, the backbone's own answers stand in.
        batch_size: Images at once.
        on_batch: Called with the number of images of each batch.
    """
    log_probs, backbone, labels, predicted = [], [], [], []
    gates = [model.gates_of(name) for name in model.gates]
    for batch in source.plain(batch_size):
        pooled, logits = said(model, batch.images)
        alone = torch.log_softmax(logits, dim=-1)
        ensembled = model.ensembled(alone)
        for own in gates:
            samples = GateSamples(tuple(pooled), ensembled[:, :-1], ensembled[:, -1])
            predicted.append(-regrets(own, samples).cpu())
        log_probs.append(ensembled.cpu())
        backbone.append(alone[:, -1].argmax(dim=-1).cpu())
        labels.append(backbone[-1] if batch.labels is None else batch.labels.cpu())
        on_batch(len(batch.images))
    signals = torch.cat(predicted) if predicted else None
    return Answers(torch.cat(log_probs), torch.cat(backbone), torch.cat(labels), signals)


@dataclass(frozen=True)
class Scored:
    """Answers as an exit rule sees them."""

    scores: Tensor
    """(N, E−1)."""
    right: Tensor
    """(N, E−1) bool."""
    right_at_end: Tensor
    """(N,) bool, of the fallback's answer."""
    costs: Tensor
    """(E,), relative to the backbone."""
    rule: RuleName

    def curve(self, index: Tensor | None = None, thresholds: Tensor | None = None) -> Curve:
        """What thresholds do to some of the samples; see ``budgets.CurveAt``."""
        part = slice(None) if index is None else index
        scores = self.scores[part]
        if thresholds is None:
            thresholds = thresholds_among(scores, self.rule)
        return sweep(scores, self.right[part], self.costs, thresholds, self.right_at_end[part])


def score(
    answers: Answers, costs: Sequence[float], rule: RuleName, fallback: FallbackName
) -> Scored:
    """What an exit rule makes of the answers.

    Args:
        answers: From ``collect``.
        costs: E costs relative to the backbone.
        rule: What exits are judged by, or patience (PBEE).
        fallback: Who answers for a sample that no IC let go.
    """
    right = answers.log_probs.argmax(dim=-1) == answers.labels.unsqueeze(1)
    at_end = FALLBACKS[fallback](answers.log_probs)
    return Scored(
        scores_by(rule, answers),
        right[:, :-1],
        right.gather(1, at_end.unsqueeze(1)).squeeze(1),
        torch.tensor(list(costs), dtype=torch.float64),
        rule,
    )


def scores_by(rule: RuleName, answers: Answers) -> Tensor:
    """(N, E−1) what a rule compares with a threshold; −inf for a broken answer.

    Args:
        rule: Its name; of ``gate``, the scores are minus the predicted regrets.
        answers: From ``collect``.

    Raises:
        UserError: There are no gates.
    """
    if rule == "confidence":
        return confidences(answers.log_probs)
    if rule == "patience":
        return agreements(answers.log_probs)
    found = margins(answers.log_probs[:, :-1]) if rule == "margin" else answers.signals
    if found is None:
        raise UserError("the classifier has no gates; train-ics fits them, without --no-gates")
    return torch.where(found.isnan(), -torch.inf, found)


def thresholds_among(scores: Tensor, rule: RuleName) -> Tensor:
    """(T,) thresholds that tell scores apart, rising.

    Args:
        scores: (N, E−1), from ``scores_by``.
        rule: Their rule.
    """
    if rule == "patience":
        return patience_thresholds(scores.shape[1] + 1)
    return quantile_thresholds(scores) if rule == "gate" else even_thresholds(scores)


@dataclass(frozen=True)
class Contender:
    """One method, trained once, on the test images and perhaps on held-out ones."""

    method: str
    run: str
    test: Scored
    held_out: Scored | None
    """What thresholds are chosen on; without it, halves of the test set in turn."""
    answers: Answers
    """Of the test images."""

    @property
    def selected_on(self) -> SelectedOn:
        """What thresholds are chosen on."""
        return "cross_fit" if self.held_out is None else "held_out"


def contenders(
    method: str,
    run: str,
    test: Answers,
    held_out: Answers | None,
    costs: Sequence[float],
    fallback: FallbackName,
    gate_costs: Sequence[float] = (),
) -> list[Contender]:
    """A trained model under its exit rules: plain ICs (``sdn``) are PBEE under patience.

    What has gates is judged by them as well, and by its margins.

    Args:
        method: Its name in ``core.model.METHODS``.
        run: Where it comes from.
        test: What it says of the test images.
        held_out: What it says of held-out training images, if it has any.
        costs: E costs relative to the backbone.
        fallback: Who answers for a sample that no IC let go.
        gate_costs: E costs of exits that gates judge, if there are gates.
    """
    rules: list[tuple[str, RuleName, Sequence[float]]] = [(method, "confidence", costs)]
    if method == "sdn":
        rules.append(("pbee", "patience", costs))
    if gate_costs:
        rules.append((f"{method}, margin", "margin", costs))
        rules.append((f"{method}, gate", "gate", gate_costs))
    return [
        Contender(
            name,
            run,
            score(test, price, rule, fallback),
            None if held_out is None else score(held_out, price, rule, fallback),
            test,
        )
        for name, rule, price in rules
    ]


def budget_table(found: Sequence[Contender]) -> pd.DataFrame:
    """Accuracy within each budget, the mean over a method's runs.

    The first row is the backbone alone. Then each budget has two rows per method: one whose
    threshold was chosen on other data than it is reported on, and one, ``selected_on`` =
    ``test``, chosen on the test set itself, as published tables do.

    Returns:
        Columns method, budget, threshold, relative_macs, accuracy (0 … 1), selected_on,
        accuracy_std (over runs; empty for one), n_runs. Cells are empty where no threshold keeps
        the budget.
    """
    answers = {c.run: c.answers for c in found}.values()
    alone = _averages([BudgetPoint(1.0, None, 1.0, a.backbone_accuracy) for a in answers])
    rows: list[dict[str, object]] = [
        {"method": "backbone", "budget": 1.0, "selected_on": "none"} | alone
    ]
    for method in dict.fromkeys(c.method for c in found):
        same = [c for c in found if c.method == method]
        for budget in BUDGETS:
            for chosen in (*dict.fromkeys(c.selected_on for c in same), "test"):
                points = [
                    point(c.test.curve(), budget) if chosen == "test" else _selected(c, budget)
                    for c in same
                    if chosen in ("test", c.selected_on)
                ]
                rows.append({"method": method, "budget": budget, "selected_on": chosen})
                rows[-1] |= _averages(points)
    columns = ["method", "budget", "threshold", "relative_macs", "accuracy", "selected_on"]
    table: pd.DataFrame = pd.DataFrame(rows)[[*columns, "accuracy_std", "n_runs"]]
    return table


def _selected(contender: Contender, budget: float | Literal["max"]) -> BudgetPoint:
    if len(contender.answers) < 2:
        raise UserError(f"{contender.run}: one image is too few to choose on; give two or more")
    if contender.held_out is None:
        return cross_fitted(contender.test.curve, len(contender.answers.labels), budget)
    return transferred(
        contender.held_out.curve(), budget, lambda t: contender.test.curve(thresholds=t)
    )


def _averages(points: Sequence[BudgetPoint]) -> dict[str, float]:
    table = pd.DataFrame([vars(p) for p in points]).drop(columns="budget").astype(float)
    mean = table.mean(skipna=False)
    spread = table["accuracy"].std(ddof=1) if len(table) > 1 else math.nan
    return {**mean.to_dict(), "accuracy_std": float(spread), "n_runs": len(table)}


def curve_table(found: Sequence[Contender]) -> pd.DataFrame:
    """Every threshold of every run on the test images.

    Returns:
        Columns method, run, threshold, relative_macs, accuracy.
    """
    tables = []
    for c in found:
        curve = c.test.curve()
        tables.append(
            pd.DataFrame(
                {
                    "method": c.method,
                    "run": c.run,
                    "threshold": curve.thresholds.numpy(),
                    "relative_macs": curve.relative_macs.numpy(),
                    "accuracy": curve.accuracy.numpy(),
                }
            )
        )
    table: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return table


def auroc(scores: Tensor, right: Tensor) -> float:
    """Chance that a right answer has a higher score than a wrong one, ties counting half.

    Source: Hanley and McNeil, "The Meaning and Use of the Area under a ROC Curve" (1982).

    Args:
        scores: (N,).
        right: (N,) bool.

    Returns:
        0 … 1, or NaN if all are right or all are wrong.
    """
    good, bad = scores[right].numpy(), scores[~right].numpy()
    if not (len(good) and len(bad)):
        return math.nan
    return float(stats.mannwhitneyu(good, bad).statistic) / (len(good) * len(bad))


def exit_table(found: Sequence[Contender]) -> pd.DataFrame:
    """Each exit on its own, on the test images.

    Returns:
        Columns method, run, rule, exit, relative_macs, accuracy, hindsight_improvability and
        auroc: how well the rule's score tells right answers from wrong ones. A gate predicts
        something else, the regret, and need not be ahead. The last exit is the backbone's head,
        ensembled where the method ensembles; no rule judges it.
    """
    rows = []
    for c in found:
        predictions = c.answers.log_probs.argmax(dim=-1)
        right = (predictions == c.answers.labels.unsqueeze(1)).double().mean(dim=0)
        improvable = hindsight_improvability(predictions, c.answers.labels)
        for m, cost in enumerate(c.test.costs.tolist()):
            rows.append(
                {
                    "method": c.method,
                    "run": c.run,
                    "rule": c.test.rule,
                    "exit": m,
                    "relative_macs": cost,
                    "accuracy": right[m].item(),
                    "hindsight_improvability": improvable[m].item(),
                    "auroc": auroc(c.test.scores[:, m], c.test.right[:, m])
                    if m < c.test.right.shape[1]
                    else math.nan,
                }
            )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def data_of(classifier: Classifier, data_path: str | None, n_test: int | None) -> DataConfig:
    """The images that a classifier is measured on.

    Args:
        classifier: Whose data they are.
        data_path: Where the images are, if not where they were at training.
        n_test: Use only this many test images, if not as many as at training.
    """
    data = classifier.config.run.data
    if n_test is None:
        n_test = data.n_test
    return replace(data, data_path=data_path or data.data_path, n_test=n_test)


def collect_answers(
    classifier: Classifier,
    path: Path,
    data: DataConfig,
    split: Split,
    device: torch.device,
    batch_size: int = 256,
) -> Answers:
    """One pass over a split, with a progress bar.

    Args:
        classifier: Its model is left on ``device``.
        path: What the bar calls it.
        data: From ``data_of``.
        split: Which images.
        device: Where it runs.
        batch_size: Images at once.

    Raises:
        UserError: Images are missing or unreadable.
    """
    from rich.progress import Progress

    from ztw_rl.supervised.data.datasets import open_source

    source = open_source(data, split, device)
    with Progress(transient=True) as progress:
        task = progress.add_task(f"{path.name}, {split}", total=len(source))
        advance = functools.partial(progress.advance, task)
        return collect(classifier.model.to(device), source, batch_size, advance)
