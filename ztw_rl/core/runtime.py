"""Early exit online: what has been answered is computed no further."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ztw_rl.core.exits import ExitRule, Fallback, last
from ztw_rl.core.model import EarlyExitModel


class Decision(NamedTuple):
    """What an early-exit model said about a batch."""

    log_probs: Tensor
    """(B, C) of the answering exit."""
    left_at: Tensor
    """(B,) the exit at which computation stopped."""
    answered_by: Tensor
    """(B,) the exit that answered; another than ``left_at`` only by choice of the fallback."""


@torch.no_grad()
def decide(model: EarlyExitModel, x: Tensor, rule: ExitRule, fallback: Fallback = last) -> Decision:
    """Run a batch through the model; samples that leave are dropped from all further work.

    Features, cascaded logits, the ensemble's members and per-sample settings of the rule are all
    compacted. The result equals ``exits.select`` on the full ``model(x)``.

    Args:
        model: The model, in eval mode.
        x: (B, …), the network's input.
        rule: Who leaves.
        fallback: Who answers for a sample that nobody let go.

    Returns:
        Answers and exits, in the order of ``x``.
    """
    n_exits = model.n_exits
    alive = torch.arange(x.shape[0], device=x.device)
    left_at = torch.full_like(alive, n_exits - 1)
    answered_by = left_at.clone()
    chosen: Tensor | None = None
    logits: Tensor | None = None
    own: list[Tensor] = []
    answers: list[Tensor] = []
    for m in range(n_exits):
        x = model.features(m, x)
        logits = model.classify(m, x, logits).float()
        own.append(torch.log_softmax(logits, dim=-1))
        answers.append(model.answer(m, torch.stack(own, dim=1)))
        if chosen is None:
            chosen = torch.empty_like(answers[0])
        if m == n_exits - 1:
            history = torch.stack(answers, dim=1)
            by = fallback(history)
            answered_by[alive] = by
            chosen[alive] = history[torch.arange(len(alive), device=by.device), by]
            break
        leaves = rule.leaves(torch.stack(answers, dim=1))
        if leaves.any():
            gone = alive[leaves]
            left_at[gone] = m
            answered_by[gone] = m
            chosen[gone] = answers[m][leaves]
            stays = (~leaves).nonzero().squeeze(1)
            if not len(stays):
                break
            alive, x, logits = alive[stays], x[stays], logits[stays]
            own = [t[stays] for t in own]
            answers = [t[stays] for t in answers]
            rule = rule.rows(stays)
    assert chosen is not None
    return Decision(chosen, left_at, answered_by)
