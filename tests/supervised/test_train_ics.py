from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ztw_rl.console import StopRequest
from ztw_rl.core.checkpoint import newest_checkpoint
from ztw_rl.core.ensembles import GeometricEnsemble
from ztw_rl.core.training import cross_entropy
from ztw_rl.errors import UserError
from ztw_rl.supervised import loop, train_ics
from ztw_rl.supervised.config import EnsembleTraining, ICTraining
from ztw_rl.supervised.data.source import Batch
from ztw_rl.supervised.engine import SingleProcess
from ztw_rl.supervised.ic_learners import ICLogits, LabelLearner

TINY = ICTraining(n_epochs=2, batch_size=8, ensemble=EnsembleTraining(n_epochs=3, batch_size=8))


def fit(model, source, run_dir, **kwargs) -> bool:
    return train_ics.train_ics(
        model, source, TINY, run_dir, seed=0, engine=SingleProcess("cpu"), **kwargs
    )


def state(model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("method", ["ztw", "sdn", "additive", "no_stop_gradient"])
def test_only_ics_and_ensembles_change(tiny_model, tiny_source, tmp_path, method):
    model = tiny_model(method)
    before = state(model)
    assert fit(model, tiny_source(), tmp_path)
    after = state(model)
    assert any(".running_mean" in name for name in before)
    for name, tensor in before.items():
        if name.startswith(("blocks.", "head.")):
            assert torch.equal(tensor, after[name]), name
    changed = {n.split(".")[0] for n, t in before.items() if not torch.equal(t, after[n])}
    assert changed == ({"ics"} if method == "sdn" else {"ics", "ensemble"})
    assert not any(p.requires_grad for p in model.parameters())
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(("method", "shielded"), [("cascade", True), ("no_stop_gradient", False)])
def test_the_gradient_stops_at_the_predecessor(tiny_model, tiny_source, method, shielded):
    model = tiny_model(method)
    batch = next(tiny_source().epoch(8, seed=0))
    log_probs = torch.log_softmax(ICLogits(model)(batch.images), dim=-1)
    cross_entropy(log_probs[:, 1:2], batch.labels).backward()
    reaches = [p.grad is not None and bool(p.grad.any()) for p in model.ics[0].parameters()]
    assert any(reaches) is not shielded


@pytest.mark.parametrize(("method", "one"), [("cascade", True), ("no_stop_gradient", False)])
def test_the_logged_cosine(tiny_model, tiny_source, method, one):
    model = tiny_model(method)
    engine = SingleProcess("cpu")
    learner = LabelLearner(model, TINY, engine)
    cosine = learner.figures(next(tiny_source().epoch(8, seed=0)))["gradient_cosine"]
    assert (cosine == pytest.approx(1, abs=1e-5)) is one


def test_a_share_of_no_images_adds_nothing(tiny_model):
    model = tiny_model("cascade")
    learner = LabelLearner(model, TINY, SingleProcess("cpu"))
    empty = Batch(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0).long(), 1)
    loss, right = learner.loss(empty)
    loss.backward()
    assert loss == 0
    assert right.tolist() == [0, 0, 0]


class OfSize(TorchDispatchMode):
    """Keeps every tensor of so many elements that is allocated."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n
        self.kept = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.numel() == self.n:
                self.kept[tensor.untyped_storage().data_ptr()] = tensor
        return out


def test_the_answers_that_ensembles_learn_from_are_kept_once(tiny_model, tiny_source, tmp_path):
    model = tiny_model("ztw")
    with OfSize(n=24 * 4 * 3) as allocated:
        assert fit(model, tiny_source(24), tmp_path, keep_ics=True)
    (answers,) = allocated.kept.values()
    assert not answers.is_inference()
    assert answers.isfinite().all()
    torch.testing.assert_close(answers.exp().sum(dim=-1), torch.ones(24, 4))


class StopAfter(StopRequest):
    """Asks to stop at the n-th time somebody looks."""

    def __init__(self, n: int) -> None:
        self.left = n

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left < 0


def test_a_stopped_and_resumed_run_ends_as_one_that_was_not(
    tiny_model, tiny_source, tmp_path, monkeypatch
):
    whole = tiny_model("cascade")
    assert fit(whole, tiny_source(), tmp_path / "whole")
    parts = tiny_model("cascade")
    with monkeypatch.context() as patched:
        from contextlib import nullcontext

        patched.setattr(train_ics, "graceful_stop", lambda: nullcontext(StopAfter(1)))
        assert not fit(parts, tiny_source(), tmp_path / "parts")
    # In the middle of the first of two epochs of three minibatches.
    assert newest_checkpoint(tmp_path / "parts").name == "step_000000002"
    again = tiny_model("cascade")
    assert fit(again, tiny_source(), tmp_path / "parts", resume=True)
    assert newest_checkpoint(tmp_path / "parts").name == "step_000000006"
    for name, tensor in state(whole).items():
        assert torch.equal(tensor, state(again)[name]), name


def test_points_are_logged_once(
    tiny_model, tiny_source, tmp_path, logged_steps, lose_newest_checkpoint
):
    assert fit(tiny_model("sdn"), tiny_source(), tmp_path)
    lose_newest_checkpoint(tmp_path)
    assert fit(tiny_model("sdn"), tiny_source(), tmp_path, resume=True)
    # Two epochs of three minibatches.
    assert logged_steps(tmp_path / "logs", "ics/loss") == [3, 6]
    assert logged_steps(tmp_path / "logs", "ics/gradient_cosine") == [1, 4]


def test_ensembles_that_begin_anew_are_logged_once(
    tiny_model, tiny_source, tmp_path, logged_steps, age_logs
):
    assert fit(tiny_model("ztw"), tiny_source(), tmp_path)
    age_logs(tmp_path)
    first = logged_steps(tmp_path / "logs", "ensemble/loss")
    # As after a kill in the ensembles' stage: the ICs are done, nothing of it was saved.
    assert fit(tiny_model("ztw"), tiny_source(), tmp_path, resume=True)
    assert logged_steps(tmp_path / "logs", "ensemble/loss") == first
    assert first[0] == 7
    assert logged_steps(tmp_path / "logs", "ics/loss") == [3, 6]


def test_checkpoints_that_cannot_be_resumed(tiny_model, tiny_source, tmp_path):
    def restored(model):
        return loop.restore(tmp_path, model, torch.optim.Adam(model.ics.parameters()))

    with pytest.raises(UserError, match="has no checkpoint yet"):
        fit(tiny_model("sdn"), tiny_source(), tmp_path, resume=True)
    assert fit(tiny_model("sdn"), tiny_source(), tmp_path)
    with pytest.raises(UserError, match="belongs to another network"):
        restored(tiny_model("ztw"))
    (newest_checkpoint(tmp_path) / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"state\.json: key 'n_batches' is missing"):
        restored(tiny_model("sdn"))


def test_an_ensemble_beats_the_mean_of_its_members_where_it_learnt():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (300,), generator=generator)
    signal = torch.nn.functional.one_hot(labels, 3).float()
    strength = torch.tensor([0.5, 1.0, 2.0]).view(1, 3, 1)
    noise = torch.randn(300, 3, 3, generator=generator)
    log_probs = torch.log_softmax(signal.unsqueeze(1) * strength + noise, dim=-1)
    ensemble = GeometricEnsemble(3, 3)
    config = EnsembleTraining(n_epochs=60, batch_size=100, learning_rate=0.02)
    stop = StopRequest()
    assert train_ics.fit_ensemble(ensemble, log_probs, labels, config, seed=0, stop=stop)
    answers = ensemble(log_probs)
    torch.testing.assert_close(answers.exp().sum(dim=-1), torch.ones(300, 3))
    assert (ensemble.log_weights.exp() > 0).all()
    for m in range(3):
        members = log_probs[:, : m + 1].mean(dim=1, keepdim=True)
        mean = torch.log_softmax(members, dim=-1)
        assert cross_entropy(answers[:, m : m + 1], labels) < cross_entropy(mean, labels)


def test_a_last_step_that_breaks_the_ensembles(tiny_model, tiny_source, tmp_path):
    """The loss before it says nothing of it."""
    one_step = EnsembleTraining(n_epochs=1, batch_size=24, optimizer="sgd", learning_rate=3e38)
    config = replace(TINY, ensemble=one_step)
    model = tiny_model("ztw")
    for ic in model.ics:
        # Sure of their answers, so the ensembles' gradient is above 1.
        ic.load_state_dict({name: 30 * tensor for name, tensor in ic.state_dict().items()})
    with pytest.raises(UserError, match="the ensembles' loss or weights are no finite numbers"):
        train_ics.train_ics(
            model,
            tiny_source(24),
            config,
            tmp_path,
            seed=0,
            engine=SingleProcess("cpu"),
            keep_ics=True,
        )


def test_gates_are_fitted_at_last(tiny_model, tiny_source, tmp_path):
    model = tiny_model("ztw", gates=True)
    before = state(model)
    assert fit(model, tiny_source(), tmp_path)
    after = state(model)
    changed = {n for n, t in before.items() if not torch.equal(t, after[n])}
    assert {name.split(".")[0] for name in changed} == {"ics", "ensemble", "gates"}
    assert {f"gates.regret.{m}.hidden.weight" for m in range(3)} <= changed
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", ["sdn", "ztw"])
def test_a_stop_while_answers_are_cached(tiny_model, tiny_source, tmp_path, monkeypatch, method):
    model = tiny_model(method, gates=True)
    before = state(model)
    filled = train_ics.fill

    def stopped(*arguments):
        arguments[-1].requested = True
        return filled(*arguments)

    monkeypatch.setattr(train_ics, "fill", stopped)
    assert not fit(model, tiny_source(), tmp_path, keep_ics=True)
    assert all(torch.equal(t, state(model)[n]) for n, t in before.items())
