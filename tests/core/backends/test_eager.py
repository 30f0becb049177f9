from __future__ import annotations

import math
import os
import re
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo import config as dynamo_config

from ztw_rl.core.backends.eager import compiled, eager, require_compiler
from ztw_rl.core.bench import forced_bounds, time_exits
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.core.runtime import decide
from ztw_rl.errors import UserError

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None,
    reason="torch.compile needs a C++ compiler",
)


def check(model, x, thresholds, backend=None):
    """The online answer is the offline selection's."""
    prediction = (backend or eager(model)).predict(x, thresholds)
    answers = model(x)
    exits, _ = select(answers, Exceeds(torch.tensor(thresholds)))
    assert prediction.exits.tolist() == exits.tolist()
    expected = answers[torch.arange(len(x)), exits]
    said = torch.from_numpy(prediction.log_probs)
    torch.testing.assert_close(said, expected, atol=1e-4, rtol=0)
    assert prediction.labels.tolist() == expected.argmax(dim=-1).tolist()
    confidence = expected.amax(dim=-1).exp()
    torch.testing.assert_close(
        torch.from_numpy(prediction.confidences), confidence, atol=1e-4, rtol=0
    )
    return exits


@pytest.mark.parametrize("method", ["sdn", "cascade", "ztw", "additive"])
@pytest.mark.parametrize("n_exits", [1, 2, 5, 27])
@pytest.mark.parametrize("batch_size", [0, 1, 7, 256])
def test_equals_the_offline_selection(make_model, method, n_exits, batch_size):
    model = make_model(n_exits, method)
    x = torch.randn(batch_size, 3, 9, 9)
    for threshold in (0.0, 0.4, 0.6, 0.9, 1.0, 1.5):
        check(model, x, (threshold,) * (n_exits - 1))


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_compiled_segments_equal_the_offline_selection(make_model):
    model = make_model(3)
    backend = compiled(model)
    for batch_size in (1, 7, 256, 0):
        for threshold in (0.0, 0.6, 1.5):
            check(model, torch.randn(batch_size, 3, 9, 9), (threshold, threshold), backend)


@needs_compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_compiled_segments_play_batches_of_any_size(make_model, request):
    """Else PyTorch compiles for a few of them, and runs the rest without a word."""
    limits = dynamo_config.patch(fail_on_recompile_limit_hit=True, recompile_limit=3)
    request.addfinalizer(lambda: limits.__exit__(None, None, None))
    limits.__enter__()
    model = make_model(5)
    backend = compiled(model)
    backend.predict(torch.randn(1, 3, 9, 9), forced_bounds(4, 5))
    found = set()
    for batch_size in (*range(1, 20), 256):
        x, rule = torch.randn(batch_size, 3, 9, 9), Exceeds(torch.rand(batch_size, 4) * 1.5)
        decision = decide(backend.segments, x, rule)
        assert decision.exits.tolist() == select(model(x), rule)[0].tolist()
        found.update(decision.exits.tolist())
    assert found == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("method", ["ztw", "additive"])
def test_an_ensemble_that_takes_in_the_head(make_model, method):
    model = make_model(3, method, ensemble_head=True)
    for batch_size in (1, 40):
        for threshold in (0.0, 0.6, 1.5):
            check(model, torch.randn(batch_size, 3, 9, 9), (threshold, threshold))


def test_each_exit_has_its_own_threshold(make_model):
    model = make_model(5)
    exits = check(model, torch.randn(256, 3, 9, 9), (0.9, 0.7, 0.9999, 0.99))
    assert len(exits.unique()) == 5


@pytest.mark.parametrize("batch_size", [1, 7])
@pytest.mark.parametrize("m", [0, 1, 2])
def test_all_leave_at_once(make_model, batch_size, m):
    exits = check(make_model(3), torch.randn(batch_size, 3, 9, 9), forced_bounds(m, 3))
    assert set(exits.tolist()) == {m}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_nothing_leaves_early_on_nan(make_model, batch_size):
    x = torch.randn(batch_size, 3, 9, 9)
    x[-1] = math.nan
    prediction = eager(make_model(3)).predict(x, (0.0, 0.0))
    assert prediction.exits.tolist() == [0] * (batch_size - 1) + [2]


def test_what_has_left_is_computed_no_further(make_model):
    model = make_model(3)
    sizes = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    x = torch.randn(256, 3, 9, 9)
    exits = eager(model).predict(x, (0.5, 0.5)).exits
    assert sizes == [256, int((exits > 0).sum()), int((exits > 1).sum())]
    sizes.clear()
    eager(model).predict(x, forced_bounds(0, 3))
    assert sizes == [256]


def test_times_name_their_backend(make_model):
    times = time_exits(eager(make_model(3)), torch.randn(1, 3, 9, 9), n_rounds=3, n_warmup=1)
    assert times.backend == "eager PyTorch"
    assert len(times.relative) == 3
    assert all(seconds > 0 for seconds in (*times.seconds, times.backbone_seconds))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", ["ztw", "cascade"])
def test_any_arithmetic(make_model, method, dtype):
    """Answers are float32, and those of the whole network."""
    model, x = make_model(3, method).to(dtype), torch.randn(5, 3, 9, 9).to(dtype)
    with torch.no_grad():
        answers = model(x)
    predicted = eager(model).predict(x, [0.4, 0.4])
    assert predicted.log_probs.dtype == np.float32
    wanted = answers[torch.arange(5), predicted.exits]
    said = torch.from_numpy(predicted.log_probs)
    torch.testing.assert_close(said, wanted, rtol=0.02, atol=0.02)


def test_no_compiler(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"no C\+\+ compiler .*; use another"):
        require_compiler("use another")


def test_the_compiler_is_the_one_that_pytorch_takes(monkeypatch):
    """The program named by CXX and no other; PyTorch looks for 'ccache g++' as it stands."""
    monkeypatch.setattr("shutil.which", lambda name: name if name in ("g++", "clang++") else None)
    for name in ("g++", "clang++"):
        monkeypatch.setenv("CXX", name)
        require_compiler("use another")
    for name in ("ccache g++", "icpx", ""):
        monkeypatch.setenv("CXX", name)
        with pytest.raises(UserError, match=rf"there is no C\+\+ compiler '{re.escape(name)}'"):
            require_compiler("use another")
