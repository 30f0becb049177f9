from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ztw_rl.core.ensembles import GeometricEnsemble
from ztw_rl.core.heads import Connection, MapClassifier, MapConfig
from ztw_rl.core.model import METHODS, EarlyExitModel, without_ensemble


def test_what_each_exit_reads(make_model):
    model = make_model(n_ics=2, n_blocks=4, attach=[1, 3])
    x = torch.randn(3, 4, 6, 6)
    after = [x]
    for block in model.blocks:
        after.append(block(after[-1]))
    for found, wanted in zip(model.exits(x), (after[1], after[3], after[4]), strict=True):
        assert torch.equal(found.features, wanted)
    assert torch.equal(model.backbone(x), model.head(after[4]))


def test_forward_is_every_exits_own_answer_combined(make_model):
    model = make_model(n_ics=2, method="ztw")
    x = torch.randn(5, 4, 6, 6)
    read = [found.features for found in model.exits(x)]
    first = model.ics[0](read[0])
    second = model.ics[1](read[1], first)
    own = torch.log_softmax(torch.stack([first, second, model.head(read[2])], dim=1), -1)
    assert torch.equal(model.alone(x), own)
    said = model(x)
    torch.testing.assert_close(said[:, :2], model.ensemble(own[:, :2]))
    torch.testing.assert_close(said[:, 2], torch.log_softmax(model.backbone(x), -1))
    model.ensemble = None
    torch.testing.assert_close(model(x), own)


def test_what_nobody_asks_for_is_not_computed(make_model):
    model = make_model(n_ics=2, n_blocks=4, attach=[1, 3])
    ran = []
    ics = [ic.linear for ic in model.ics]
    for i, module in enumerate((*model.blocks, *ics, model.head)):
        module.register_forward_hook(lambda *_, i=i: ran.append(i))
    exits = model.exits(torch.randn(3, 4, 6, 6))
    assert ran == []
    next(exits)
    assert ran == [0, 4]
    next(exits)
    assert ran == [0, 4, 1, 2, 5]


def test_every_layer_is_a_parameter_once(make_model):
    model = make_model(n_ics=2)
    assert not any(name.startswith("segments") for name in model.state_dict())
    copied = copy.deepcopy(model)
    assert copied.segments[0].blocks[0] is copied.blocks[0]
    assert copied.segments[2].classifier is copied.head


def test_answering_segments_answer_as_the_whole(make_model):
    model = make_model(n_ics=2, method="ztw", ensemble_head=True)
    x = torch.randn(5, 4, 6, 6)
    wanted = model(x)
    logits = None
    for m, segment in enumerate(model.answering()):
        x, logits, log_probs, confidence, signal = segment(x, logits)
        torch.testing.assert_close(log_probs, wanted[:, m])
        torch.testing.assert_close(confidence, wanted[:, m].exp().amax(-1))
        assert signal is confidence
        assert logits.shape == (5, m + 1, 3)


def test_an_ensemble_may_take_in_the_backbones_head(make_model):
    model = make_model(n_ics=2, method="ztw", ensemble_head=True)
    assert [model.is_ensembled(m) for m in range(3)] == [True, True, True]
    x = torch.randn(5, 4, 6, 6)
    torch.testing.assert_close(model(x), model.ensemble(model.alone(x)))
    torch.testing.assert_close(model.alone(x)[:, 2], torch.log_softmax(model.backbone(x), -1))


def test_a_model_without_ics_is_the_backbone(make_model):
    model = make_model(n_ics=0)
    x = torch.randn(5, 4, 6, 6)
    assert model.n_exits == 1
    torch.testing.assert_close(model(x)[:, 0], torch.log_softmax(model.backbone(x), -1))


@pytest.mark.parametrize(
    ("method", "reaches_the_first"), [("ztw", False), ("no_stop_gradient", True), ("sdn", False)]
)
def test_the_second_ics_loss_reaches_the_first_only_without_stop_gradient(
    make_model, method, reaches_the_first
):
    model = make_model(n_ics=2, method=method)
    _, second, _ = model.exits(torch.randn(5, 4, 6, 6))
    second.logits.square().sum().backward()
    assert model.ics[1].linear.weight.grad.any()
    gradients = [p.grad for p in model.ics[0].parameters()]
    assert any(g is not None and g.any() for g in gradients) == reaches_the_first


def ic(cascade=False):
    return MapClassifier(MapConfig(2, (4, 4), 2), Connection(3, cascade=cascade))


@pytest.mark.parametrize(
    ("ics", "attach", "ensemble", "message"),
    [
        ([ic()], [], None, "1 ICs need as many places, but 0 are given"),
        ([ic()], [0], None, "places must be positive and increasing"),
        ([ic(), ic()], [2, 1], None, "places must be positive and increasing"),
        ([ic(), ic()], [1, 1], None, "places must be positive and increasing"),
        ([ic()], [3], None, "an IC after block 3, but there are 2 blocks"),
        ([ic(cascade=True)], [1], None, "the first IC has no predecessor"),
        ([ic()], [1], GeometricEnsemble(3, 3), "an ensemble of 3 exits over 1 ICs"),
    ],
)
def test_parts_that_do_not_fit(ics, attach, ensemble, message):
    with pytest.raises(ValueError, match=message):
        EarlyExitModel([nn.Identity(), nn.Identity()], nn.Flatten(), ics, attach, ensemble)


def test_the_methods_are_what_they_are_called():
    parts = {name: (m.cascade, m.ensemble and m.ensemble.__name__) for name, m in METHODS.items()}
    assert parts == {
        "ztw": (True, "GeometricEnsemble"),
        "sdn": (False, None),
        "cascade": (True, None),
        "ensemble": (False, "GeometricEnsemble"),
        "additive": (True, "AdditiveEnsemble"),
        "no_stop_gradient": (True, "GeometricEnsemble"),
    }
    assert [name for name, m in METHODS.items() if not m.stop_gradient] == ["no_stop_gradient"]


@pytest.mark.parametrize(("name", "bare"), [("ztw", "cascade"), ("ensemble", "sdn")])
def test_the_method_below_the_ensembles(name, bare):
    assert without_ensemble(name) == bare


@pytest.mark.parametrize("name", ["sdn", "cascade", "no_stop_gradient"])
def test_methods_without_such_a_one(name):
    with pytest.raises(ValueError, match=name):
        without_ensemble(name)
