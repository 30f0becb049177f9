from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ztw_rl.core.exits import last
from ztw_rl.core.runtime import signals
from ztw_rl.errors import UserError
from ztw_rl.supervised.evaluate import (
    Answers,
    auroc,
    budget_table,
    collect,
    contenders,
    curve_table,
    exit_table,
)

COSTS = (0.2, 0.6, 1.1)


def answers(seed: int, n: int = 100) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (n,), generator=generator)
    signal = torch.nn.functional.one_hot(labels, 3).unsqueeze(1)
    strength = torch.tensor([0.5, 1.0, 2.0]).view(1, 3, 1)
    logits = signal * strength + torch.randn(n, 3, 3, generator=generator)
    log_probs = torch.log_softmax(logits, dim=-1)
    return Answers(log_probs, log_probs[:, -1].argmax(dim=-1), labels)


def test_one_pass_gives_what_the_model_says(tiny_model, tiny_source):
    model = tiny_model("ztw").eval()
    source = tiny_source()
    seen = []
    found = collect(model, source, batch_size=10, on_batch=seen.append)
    assert seen == [10, 10, 4]
    images = torch.cat([b.images for b in source.plain(24)])
    with torch.no_grad():
        torch.testing.assert_close(found.log_probs, model(images))
        assert torch.equal(found.backbone, model.backbone(images).argmax(dim=-1))


def test_one_image_is_too_few_to_choose_on():
    with pytest.raises(UserError, match="a: one image is too few to choose on"):
        budget_table(contenders("ztw", "a", answers(0, n=1), None, COSTS, "last"))


def test_budgets_of_two_seeds_and_of_held_out_images():
    found = contenders("sdn", "a", answers(0), None, COSTS, "last")
    found += contenders("sdn", "b", answers(1), None, COSTS, "last")
    found += contenders("ztw", "c", answers(2), answers(3), COSTS, "most_confident")
    table = budget_table(found)
    assert list(table.columns[:6]) == [
        "method",
        "budget",
        "threshold",
        "relative_macs",
        "accuracy",
        "selected_on",
    ]
    assert list(table["method"].unique()) == ["backbone", "sdn", "pbee", "ztw"]
    assert table[table["method"] == "sdn"]["n_runs"].unique().tolist() == [2]
    assert table[table["method"] == "sdn"]["selected_on"].unique().tolist() == ["cross_fit", "test"]
    assert table[table["method"] == "ztw"]["selected_on"].unique().tolist() == ["held_out", "test"]
    half = table[(table["budget"] == 0.5) & (table["selected_on"] == "test")]
    assert (half["relative_macs"].dropna() <= 0.5).all()
    assert half[half["method"] == "sdn"]["accuracy_std"].item() > 0
    backbone = table.iloc[0]
    right = [(a.backbone == a.labels).double().mean().item() for a in map(answers, (0, 1, 2))]
    assert backbone["accuracy"] == pytest.approx(sum(right) / 3)
    assert len(curve_table(found)) == 3 * 1000 + 2 * 3


def test_a_budget_below_the_first_exit_is_an_empty_cell():
    table = budget_table(contenders("ztw", "a", answers(0), None, (0.3, 0.6, 1.1), "last"))
    cells = table[(table["method"] == "ztw") & (table["budget"] == 0.25)]
    assert cells["accuracy"].isna().all()
    assert cells["threshold"].isna().all()


def test_hindsight_improvability_by_hand():
    labels = torch.zeros(4, dtype=torch.int64)
    # Exit 0 is right on images 0 and 1, exit 1 on 0 and 2, the last on 0.
    right = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 0]]).bool()
    log_probs = torch.where(right.unsqueeze(-1), torch.tensor([0.8, 0.2]), torch.tensor([0.2, 0.8]))
    found = contenders(
        "ztw",
        "a",
        Answers(log_probs.log(), torch.ones(4, dtype=torch.int64), labels),
        None,
        COSTS,
        "last",
    )
    table = exit_table(found)
    assert table["accuracy"].tolist() == [0.5, 0.5, 0.25]
    # Exit 1 is wrong on 1 and 3, of which 1 was right before; the last on 1, 2, 3.
    assert table["hindsight_improvability"].tolist() == pytest.approx([0, 1 / 2, 2 / 3])
    assert torch.equal(last(log_probs), torch.full((4,), 2))


def test_auroc_by_hand():
    scores = torch.tensor([0.9, 0.8, 0.8, 0.1])
    # Of four pairs, two are in order, one is a tie, one is not.
    assert auroc(scores, torch.tensor([True, False, True, False])) == (3 + 0.5) / 4
    assert math.isnan(auroc(scores, torch.ones(4, dtype=torch.bool)))


def test_gates_and_margins_beside_confidence():
    plain = answers(0)
    # A gate that knows: it asks to stay exactly where an exit is wrong and the end is right.
    right = plain.log_probs.argmax(dim=-1) == plain.labels.unsqueeze(1)
    knowing = replace(plain, signals=right[:, :-1].float() - right[:, -1:].float())
    found = contenders("ztw", "a", knowing, None, COSTS, "last", gate_costs=(0.21, 0.62, 1.13))
    assert [c.method for c in found] == ["ztw", "ztw, margin", "ztw, gate"]
    confidence, margin, gate = found
    top = plain.log_probs.exp().sort(dim=-1, descending=True).values
    torch.testing.assert_close(margin.test.scores, (top[..., 0] - top[..., 1])[:, :-1])
    assert gate.test.costs.tolist() == [0.21, 0.62, 1.13]
    assert confidence.test.costs.tolist() == list(COSTS)
    # What knows loses nothing, however early it leaves.
    assert gate.test.curve().accuracy.max() > confidence.test.curve().accuracy.max()
    exits = exit_table(found)
    assert exits["rule"].unique().tolist() == ["confidence", "margin", "gate"]
    assert exits[exits["exit"] == 2]["auroc"].isna().all()
    assert (exits[exits["exit"] < 2]["auroc"] > 0.5).all()


def test_what_gates_say_of_images(tiny_model, tiny_source):
    model = tiny_model("ztw", gates=True).eval()
    images = torch.cat([b.images for b in tiny_source().plain(24)])
    found = collect(model, tiny_source(), batch_size=10)
    torch.testing.assert_close(found.signals, signals(model.judged("regret").answering(), images))
    some = torch.tensor([3, 1])
    assert torch.equal(found.at(some).signals, found.signals[some])
