from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from tests.networks import gated
from ztw_rl import deploy, tflite
from ztw_rl.core.backends.litert import operators
from ztw_rl.core.backends.litert.backend import litert, one_file
from ztw_rl.core.deployable import export_litert
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import decide, signals
from ztw_rl.decision import bound
from ztw_rl.errors import UserError
from ztw_rl.interpreters import Running, open_interpreter

BRANCHES = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
x, thresholds = (each["index"] for each in interpreter.get_input_details())
for threshold in (0.0, 2.0):
    interpreter.set_tensor(x, np.zeros((1, 3, 9, 9), np.float32))
    interpreter.set_tensor(thresholds, np.full(2, threshold, np.float32))
    interpreter.invoke()
    names = {each["name"]: each["index"] for each in interpreter.get_output_details()}
    print(interpreter.get_tensor(names["exit"])[0], end=" ")
"""


@pytest.fixture
def file(make_model, tmp_path):
    path = tmp_path / "model.tflite"
    about = {"labels": ["a"], "answer": "label"}
    export_litert(path, make_model(3), torch.zeros(1, 3, 9, 9), [0.5, 0.6], about)
    return path


def test_a_file_runs_without_code_of_ours(file):
    """In a process of its own, which must end well: LiteRT could free a branch's output twice."""
    command = [sys.executable, "-c", BRANCHES, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "2"]), done.stderr


def test_a_file_runs_without_torch(file, make_model, without_torch):
    x = torch.randn(7, 3, 9, 9)
    answers = make_model(3)(x)
    exits, _ = select(answers, Exceeds(torch.tensor([0.5, 0.6])))
    labels = answers[torch.arange(7), exits].argmax(dim=-1)
    assert without_torch(file, x) == [labels.tolist(), exits.tolist(), ["a"]]


@pytest.mark.parametrize("ensemble_head", [False, True])
@pytest.mark.parametrize("method", ["ztw", "sdn", "cascade", "ensemble", "additive"])
@pytest.mark.parametrize("n_exits", [1, 2, 3])
def test_one_by_one_it_equals_the_offline_selection(make_model, method, n_exits, ensemble_head):
    torch.manual_seed(0)
    model = make_model(n_exits, method, ensemble_head=ensemble_head)
    x = torch.randn(12, 3, 9, 9)
    x[5, 0, 0, 0] = math.nan
    backend, answers = litert(model, x[:1]), model(x)
    for threshold in (0.0, 0.5, 0.8, 1.5):
        exits, _ = select(answers, Exceeds.uniform(threshold, n_exits))
        for i in range(len(x)):
            found = backend.predict(x[i : i + 1], (threshold,) * (n_exits - 1))
            assert found.exits.tolist() == [n_exits - 1 if i == 5 else exits[i]]
            np.testing.assert_allclose(found.log_probs[0], answers[i, exits[i]], atol=1e-4)


def test_what_it_says_of_itself(make_model, file):
    interpreter = Interpreter(model_path=str(file))
    inputs = {i["name"]: (i["shape"].tolist(), i["dtype"]) for i in interpreter.get_input_details()}
    assert inputs == {"x": ([1, 3, 9, 9], np.float32), "thresholds": ([2], np.float32)}
    found = interpreter.get_output_details()
    outputs = {each["name"]: (each["shape"].tolist(), each["dtype"]) for each in found}
    assert outputs == {
        "label": ([1], np.int32),
        "exit": ([1], np.int32),
        "confidence": ([1], np.float32),
        "log_probs": ([1, 5], np.float32),
    }
    assert tflite.metadata_of(file.read_bytes())["thresholds"] == [0.5, 0.6]


def test_every_thread_gets_interpreters_of_its_own(file):
    model = deploy.load(file)
    x = np.random.default_rng(0).normal(size=(64, 3, 9, 9)).astype(np.float32)
    wanted = model.predict(x).exits.tolist()

    def answers(repeat: int) -> list[int]:
        one_by_one = [model.predict(x[i : i + 1]).exits.item() for i in range(64)]
        assert model.predict(x[repeat:]).exits.tolist() == wanted[repeat:]
        return one_by_one

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answers, range(8))) == [wanted] * 8


def test_bad_input(file):
    model = deploy.load(file)
    with pytest.raises(UserError, match=r"float32 \(1, 3, 9, 8\).* float32 \(B, 3, 9, 9"):
        model.predict(np.zeros((1, 3, 9, 8), np.float32))
    with pytest.raises(UserError, match="2 thresholds are needed, not 1"):
        model.predict(np.zeros((1, 3, 9, 9), np.float32), [0.5])
    none = model.predict(np.zeros((0, 3, 9, 9), np.float32))
    assert (len(none.labels), none.log_probs.shape) == (0, (0, 5))


def test_a_damaged_file_is_never_run(file):
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 40, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.tflite is damaged \(.*\); export it again"):
            deploy.load(file)
        assert deploy.kind_of(file) is None
    for damaged in (whole[: len(whole) // 2], b"", b"no model", whole[:8]):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"is damaged .*; export it again"):
            deploy.load(file)


def test_a_file_of_another_kind(make_model, file):
    x = torch.zeros(1, 3, 9, 9)
    file.write_bytes(one_file(make_model(2), x, "label", {"format": 9, "kind": "litert"}))
    with pytest.raises(UserError, match="is no LiteRT file of format 1; export it again"):
        deploy.load(file)
    file.write_bytes(one_file(make_model(2), x, "label", {"format": 1, "kind": "litert"}))
    with pytest.raises(UserError, match=r"is damaged \(metadata: 'n_exits'\)"):
        deploy.load(file)


def test_what_is_written_is_compared_with_the_model(make_model, monkeypatch):
    monkeypatch.setitem(operators.OPERATORS, torch.ops.aten.relu.default, operators.tanh)
    with pytest.raises(UserError, match=r"LiteRT's answers differ from PyTorch's \(.*; take"):
        litert(make_model(2), torch.zeros(1, 3, 9, 9))


def test_nan_that_a_maximum_would_lose(make_model):
    plain = make_model(2)
    blocks = [nn.Sequential(nn.MaxPool2d(2), plain.blocks[0]), plain.blocks[1]]
    model = EarlyExitModel(blocks, plain.head, list(plain.ics), plain.attach, plain.ensemble)
    x = torch.randn(4, 3, 18, 18)
    x[2, 0, 0, 0] = math.nan
    backend = litert(model.eval(), torch.zeros(1, 3, 18, 18))
    assert backend.predict(x, (0.0,)).exits.tolist() == [0, 0, 1, 0]
    assert backend.predict(x[2:3], (0.0,)).exits.tolist() == [1]


def test_an_empty_batch_of_an_exit_does_no_harm(make_model):
    x = torch.randn(16, 3, 9, 9)
    segment = litert(make_model(3), x[:1]).segments[0]
    wanted = segment(x, None).log_probs
    with contextlib.suppress(Exception):
        segment(x[:0], None)
    assert torch.equal(segment(x, None).log_probs, wanted)


@pytest.mark.parametrize("by", ["confidence", "margin", "regret"])
@pytest.mark.parametrize("ensemble_head", [False, True])
def test_the_file_alone_equals_the_exits_one_by_one(make_model, by, ensemble_head):
    torch.manual_seed(0)
    model = gated(make_model(4, ensemble_head=ensemble_head)).judged(by)
    x = torch.randn(40, 3, 9, 9)
    x[7, 0, 0, 0] = math.nan
    found = signals(model.answering(), x)
    # Between two samples, so that rounding decides nothing.
    bounds = found[~found.isnan().any(dim=1)].quantile(0.51, dim=0)
    wanted = decide(model.answering(), x, Exceeds(bounds))
    assert len(set(wanted.exits.tolist())) == 4
    content = one_file(model, x[:1], "label", {})
    running = Running(open_interpreter(content, 1, "the model"))
    # What is given is a regret, not its negative.
    thresholds = np.array([bound(model.rule, each) for each in bounds.tolist()], np.float32)
    for i in range(40):
        running.input("x", x[i : i + 1].numpy())
        running.input("thresholds", thresholds)
        running.interpreter.invoke()
        assert running.output("exit").tolist() == [wanted.exits[i]]
        if i != 7:
            assert running.output("label").tolist() == [wanted.labels[i]]
            np.testing.assert_allclose(
                running.output("log_probs")[0], wanted.log_probs[i], atol=1e-4
            )


def test_nothing_is_written_to_the_standard_error(file):
    """In a process of its own, since LiteRT greets once."""
    program = "import sys; from ztw_rl import deploy; deploy.load(sys.argv[1])"
    command = [sys.executable, "-c", program, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


BLOCKED = """
import sys
sys.modules["ai_edge_litert"] = None
import ztw_rl
from ztw_rl import cli, deploy
from ztw_rl.errors import UserError
assert deploy.kind_of(sys.argv[1]) is None
try:
    deploy.load(sys.argv[1])
except UserError as error:
    print(error)
"""


def test_a_package_that_cannot_be_imported(file):
    command = [sys.executable, "-c", BLOCKED, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ai_edge_litert is missing; pip install 'ztw-rl[litert]'\n"


def test_a_missing_package(make_model, file, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = r"ai_edge_litert is missing; pip install 'ztw-rl\[litert\]'"
    with pytest.raises(UserError, match=message):
        deploy.load(file)
    with pytest.raises(UserError, match=message):
        litert(make_model(2), torch.zeros(1, 3, 9, 9))
