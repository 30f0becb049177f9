from __future__ import annotations

import pytest
import torch
from rich.console import Console

from ztw_rl.console import StopRequest
from ztw_rl.errors import UserError
from ztw_rl.supervised import cache, gates
from ztw_rl.supervised.loop import RunLog


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("method", ["ztw", "sdn"])
def test_what_gates_learn_from(tiny_model, tiny_source, monkeypatch, method, labelled):
    """As many images as fit, features and answers of the same pass."""
    model = tiny_model(method, gates=True).eval().requires_grad_(False)
    source = tiny_source()
    monkeypatch.setattr(source, "labelled", labelled)
    per_image = 2 * sum(gate.n_pooled for gate in model.gates_of("regret")) + 8 * 4 * 3
    monkeypatch.setattr(cache, "GATE_BYTES", 20 * per_image + 1)
    found = cache.fill(model, source, 8, 0, StopRequest())
    images = torch.cat([batch.images for batch in source.epoch(8, 0)])
    torch.testing.assert_close(found.log_probs, model.alone(images))
    exits = list(model.exits(images[:20]))[:-1]
    for kept, own in zip(found.pooled, exits, strict=True):
        torch.testing.assert_close(kept.float(), own.pooled, atol=0.01, rtol=0.01)
    samples = gates.samples_of(model, found)
    answers = model(images[:20])
    torch.testing.assert_close(samples.answers, answers[:, :-1])
    torch.testing.assert_close(samples.full, answers[:, -1])

    targets = []

    def remember(own, samples, target, generator, on_epoch):
        targets.append(target)
        return (0.0,) * len(own)

    monkeypatch.setattr(gates, "fit_gates", remember)
    run_log = RunLog(None, Console(quiet=True))
    gates.fit(model, found, 0, run_log, 0)
    run_log.close()
    if labelled:
        right = (answers.argmax(dim=-1) == found.labels[:20, None]).float()
        assert torch.equal(targets[0], right[:, -1:] - right[:, :-1])
        assert torch.equal(found.targets, found.labels)
    else:
        full, own = answers[:, -1:], answers[:, :-1]
        torch.testing.assert_close(targets[0], (full.exp() * (full - own)).sum(dim=-1))
        assert torch.equal(found.targets, found.log_probs[:, -1])


def test_without_gates_no_features_are_kept(tiny_model, tiny_source):
    found = cache.fill(tiny_model("ztw").eval(), tiny_source(), 8, 0, StopRequest())
    assert found.pooled == ()


def test_what_is_broken_is_not_saved(tiny_model, tiny_source):
    model = tiny_model("sdn", gates=True).eval()
    found = cache.fill(model, tiny_source(), 8, 0, StopRequest())
    found.pooled[1][3] = torch.nan
    run_log = RunLog(None, Console(quiet=True))
    with pytest.raises(UserError, match="the gates' weights are no finite numbers"):
        gates.fit(model, found, 0, run_log, 0)
    run_log.close()
