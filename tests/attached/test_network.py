"""Exits on networks of the user's own."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import datasets
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ztw_rl
from ztw_rl import UserError
from ztw_rl.commands._arguments import read
from ztw_rl.commands.supervised.train_backbone import TrainBackbone
from ztw_rl.commands.supervised.train_ics import TrainICs
from ztw_rl.console import StopRequest
from ztw_rl.core.checkpoint import newest_checkpoint
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.supervised import train_ics
from ztw_rl.supervised.config import library_arch

PAGE = Path(__file__).parents[2] / "docs" / "your-network.md"
QUICK = {"n_epochs": 2, "ensemble_epochs": 3, "quiet": True}
N_VALUES, WIDTH, N_CLASSES = 2, 16, 3


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def mlp() -> nn.Sequential:
    """On two numbers: 2·16 + 16·16 + 16·3 = 336 products."""
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(n, WIDTH), nn.ReLU()) for n in (N_VALUES, WIDTH)]
    return nn.Sequential(*layers, nn.Linear(WIDTH, N_CLASSES))


class Attention(nn.Module):
    """On six tokens: attention, twice, then the mean of the tokens."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(8, N_CLASSES)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(dim=1))


class Turns(nn.Module):
    """Goes another way for other values, so it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.relu(self.layer(x)) if bool(x.sum() > 0) else x


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Conv2d(32, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * 9, N_CLASSES)),
    )


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def corners(n: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Points about three corners, and which corner it is."""
    labels = torch.arange(n) % N_CLASSES
    places = torch.tensor([[3.0, 0.0], [-3.0, 3.0], [-3.0, -3.0]])
    return places[labels] + inputs(n, N_VALUES), labels


def batches(x: torch.Tensor, labels: torch.Tensor | None = None, size: int = 20):
    if labels is None:
        return list(torch.split(x, size))
    return list(zip(torch.split(x, size), torch.split(labels, size), strict=True))


def fitted(**how):
    x, labels = corners()
    ee = ztw_rl.attach(mlp(), example=x[:1], exits=["0", "1"])
    ee.fit(batches(x, labels), **{**QUICK, "learning_rate": 0.05, "n_epochs": 10, **how})
    return ee


def weights(ee) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in ee._network.trained.state_dict().items()}


def test_costs_by_hand():
    ee = ztw_rl.attach(mlp(), example=inputs(1, 2), exits=2)
    assert ee.exits == ("0", "1")
    first = 2 * 16 + 16 * 3
    # The second exit also sees the three logits of the first.
    second = first + 16 * 16 + (16 + 3) * 3
    assert ee.costs == pytest.approx((first / 336, second / 336, (second + 16 * 3) / 336))


def test_before_it_is_fitted_the_network_answers():
    x, _ = corners()
    network = mlp()
    ee = ztw_rl.attach(network, example=x[:1], exits=2)
    assert repr(ee) == "EarlyExit('Sequential'): not fitted yet, so the full network answers"
    decision = ee.decide(x)
    assert decision.exits.tolist() == [2] * len(x)
    # Ensembles begin as the mean, of which the random exits are a part only when they may answer.
    for call in (
        lambda: ee.calibrate(batches(x), budget=0.9),
        lambda: ee.export("net.zip"),
        lambda: ee.save("exits"),
    ):
        with pytest.raises(UserError, match="have learnt nothing yet; call fit first"):
            call()
    assert not list(Path().iterdir())


def test_from_a_network_to_a_file():
    x, labels = corners()
    ee = fitted()
    assert repr(ee).endswith("threshold 0.9, which nothing was calibrated for")
    assert (ee.decide(x).exits.tolist()) == exits_at(ee, x, 0.9)
    # The corners are far from one another, so the first exit tells them apart.
    worth = ee.calibrate(batches(x, labels), keep=1)
    assert worth.score == 1
    # Half of the corners let a threshold pass that sends a few of the others on.
    assert 80 / 336 <= worth.cost < 1.2 * 80 / 336
    assert ee.decide(x).exits.tolist() == [0] * 60
    assert ee.calibrate(batches(x, labels), budget=0.5).score == 1
    assert "chosen on all 60 held-out inputs; chosen on one half of them" in repr(ee)
    assert "100.00% right (the backbone " in repr(ee)
    decision = ee.decide(x)
    assert decision.labels.tolist() == labels.tolist()
    assert np.mean([ee.costs[m] for m in decision.exits]) <= 0.5
    assert ee.predict(x)[0].tolist() == labels.tolist()
    assert ee.decide(x[0]).labels == labels[0]
    ee.export("net.zip")
    for file in (ztw_rl.load("net.zip"), ztw_rl.deploy.load("net.zip")):
        answer = file.predict(x.numpy())
        found = answer[0] if isinstance(answer, tuple) and len(answer) == 2 else answer.labels
        assert found.tolist() == labels.tolist()
    metadata = ztw_rl.deploy.load("net.zip").metadata
    assert metadata["places"] == ["0", "1"]
    assert metadata["threshold_chosen_for"]["budget"] == 0.5
    assert metadata["labels"] == ["0", "1", "2"]
    # Another target is chosen on the same inputs.
    ee.export("other.zip", threshold=1)
    assert ztw_rl.load("other.zip").decide(x).exits.tolist() == [2] * 60
    ee.export("third.zip", keep=0.5)
    assert ztw_rl.deploy.load("third.zip").metadata["threshold_chosen_for"]["keep"] == 0.5


def exits_at(ee, x: torch.Tensor, threshold: float) -> list[int]:
    with torch.no_grad():
        answers = ee._network.trained(x)
    return select(answers, Exceeds.uniform(threshold, 3))[0].tolist()


def test_every_target():
    x, labels = corners()
    ee = fitted()
    held_out = batches(x, labels)
    assert ee.calibrate(held_out, threshold=0.4).disagreement is not None
    assert re.search(r"threshold 0.4 on 60 held-out inputs: .*% right", repr(ee))
    assert ee.decide(x).exits.tolist() == exits_at(ee, x, 0.4)
    assert ee.calibrate(held_out, keep=0.9).cost < 1
    ee.calibrate(held_out, risk=(0.99, 0.6))
    assert "with confidence 0.6, at most 99.0% of images" in repr(ee)
    ee.calibrate(held_out, risk=0.99)
    assert "with confidence 0.95, at most 99.0%" in repr(ee)
    # A generator is read once, which is enough here.
    ee.calibrate(iter(held_out), budget=0.9)
    # What was calibrated for other weights is void.
    ee.fit(held_out, **QUICK)
    assert "nothing was calibrated" in repr(ee)


def test_without_labels_exits_imitate_the_network():
    x, _ = corners()
    network = mlp()
    said = network(x).argmax(dim=1)
    ee = ztw_rl.attach(network, example=x[:1], exits=["0", "1"])
    settings = QUICK | {"n_epochs": 40, "learning_rate": 0.05}
    before = divergence(ee, x)
    ee.fit(batches(x), **settings)
    assert (divergence(ee, x) < before / 2).all()
    worth = ee.calibrate(batches(x), keep=0.9)
    assert repr(ee).endswith("without labels, right is what the network says")
    assert "the backbone 100.00%" in repr(ee)
    agrees = (torch.from_numpy(ee.decide(x).labels) == said).double().mean().item()
    assert agrees >= 0.9
    assert worth.disagreement == pytest.approx(1 - worth.score)
    # A label that is None is none, and so is a batch of inputs alone in a tuple.
    same = ztw_rl.attach(network, example=x[:1], exits=["0", "1"])
    same.fit([(part, None) for part in batches(x)], **settings)
    third = ztw_rl.attach(network, example=x[:1], exits=["0", "1"])
    third.fit(DataLoader(TensorDataset(x), 20), **settings)
    for name, tensor in weights(ee).items():
        assert torch.equal(tensor, weights(same)[name])
        assert torch.equal(tensor, weights(third)[name])


@torch.no_grad()
def divergence(ee, x: torch.Tensor) -> torch.Tensor:
    """KL(network ‖ IC) of each IC."""
    alone = ee._network.trained.alone(x)
    head = alone[:, -1:]
    return (head.exp() * (head - alone[:, :-1])).sum(dim=2).mean(dim=0)


@pytest.mark.parametrize("method", ["ztw", "sdn"])
@pytest.mark.parametrize(
    ("network", "shape"), [(cnn, (1, 8, 8)), (Attention, (6, 8))], ids=["maps", "tokens"]
)
def test_maps_and_tokens(network, shape, method):
    x, labels = inputs(40, *shape), torch.arange(40) % N_CLASSES
    network = network().eval()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with torch.no_grad():
        whole = network(x)
    ee = ztw_rl.attach(network, example=x, exits=1, method=method)
    ee.fit(batches(x, labels), **QUICK)
    # Statistics of normalisation included.
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in before.items())
    assert not network.training
    with torch.no_grad():
        assert torch.equal(ee._network.trained.backbone(x), whole)
    ee.calibrate(batches(x, labels), threshold=0.4)
    ee.export("net.zip")
    file = ztw_rl.load("net.zip")
    assert file.decide(x).exits.tolist() == ee.decide(x).exits.tolist()
    np.testing.assert_allclose(file.decide(x).log_probs, ee.decide(x).log_probs, atol=1e-4)


def test_blocks_and_head():
    x, labels = corners()
    first, _, head = mlp()
    ee = ztw_rl.attach_blocks([first, Turns()], head, example=x[:1], labels=["a", "b", "c"])
    assert ee.exits == ("block 0", "block 1")
    ee.fit(batches(x, labels), **QUICK)
    ee.calibrate(batches(x, labels), budget=2)
    assert ee.labels == ["a", "b", "c"]
    assert len(ee.decide(x).labels) == 60


def test_fitting_leaves_the_users_chance_as_it_was():
    x, labels = corners()
    loader = DataLoader(TensorDataset(x, labels), 20, shuffle=True)
    ee = ztw_rl.attach(mlp(), example=x[:1], exits=2)
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    again = ztw_rl.attach(mlp(), example=x[:1], exits=2)
    torch.manual_seed(7)
    ee.fit(loader, **QUICK)
    ee.calibrate(loader, budget=2)
    assert torch.equal(torch.rand(3), wanted)
    again.fit(loader, **QUICK)
    assert all(torch.equal(t, weights(again)[name]) for name, t in weights(ee).items())


class StopAfter(StopRequest):
    """Asks to stop at the n-th time somebody looks."""

    def __init__(self, n: int) -> None:
        self.left = n

    @property
    def requested(self) -> bool:  # type: ignore[override]
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("labelled", [True, False])
def test_a_fit_that_was_stopped_ends_as_one_that_was_not(monkeypatch, labelled):
    x, labels = corners()
    data = TensorDataset(x, labels) if labelled else TensorDataset(x)
    loader = DataLoader(data, 20, shuffle=True)

    def start():
        return ztw_rl.attach(mlp(), example=x[:1], exits=["0", "1"])

    whole, stopped, resumed = start(), start(), start()
    whole.fit(loader, **QUICK, run_dir="whole")
    with monkeypatch.context() as patched:
        patched.setattr(train_ics, "graceful_stop", lambda: nullcontext(StopAfter(1)))
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(loader, **QUICK, run_dir="parts")
    assert "not fitted yet" in repr(stopped)
    # In the middle of the first of two epochs of three batches.
    assert newest_checkpoint(Path("parts")).name == "step_000000002"
    assert json.loads(Path("parts/config.json").read_text())["labelled"] is labelled
    resumed.fit(loader, **QUICK, run_dir="parts", resume=True)
    assert newest_checkpoint(Path("parts")).name == "step_000000006"
    assert list(Path("parts/logs").glob("events.out.tfevents.*"))
    nowhere = start()
    nowhere.fit(loader, **QUICK)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(resumed)[name]), name
        assert torch.equal(tensor, weights(nowhere)[name]), name
    assert {path.name for path in Path().iterdir()} == {"whole", "parts"}


def test_a_run_that_cannot_go_on():
    x, labels = corners()
    ee = ztw_rl.attach(mlp(), example=x[:1], exits=2)
    loader = batches(x, labels)
    ee.fit(loader, **QUICK, run_dir="mine")
    for how, message in (
        ({"run_dir": "mine"}, "mine holds a fit already; go on with resume=True, or name another"),
        ({"resume": True}, "resume needs run_dir"),
        ({"resume": True, "run_dir": "nowhere"}, "there is no run folder nowhere"),
        (
            {"resume": True, "run_dir": "mine", "seed": 1},
            "seed is 0 in mine and cannot become 1 midway; name another run_dir",
        ),
    ):
        with pytest.raises(UserError, match=message):
            ee.fit(loader, **QUICK, **how)


def test_exits_are_stored_without_the_network():
    x, labels = corners()
    ee = fitted()
    ee.calibrate(batches(x, labels), budget=0.5)
    ee.save("exits")
    assert {path.name for path in Path("exits").iterdir()} == {"exits.json", "exits.safetensors"}
    again = ztw_rl.attach(mlp(), example=x[:1], exits=["0", "1"]).load_weights("exits")
    assert again.decide(x).exits.tolist() == ee.decide(x).exits.tolist()
    np.testing.assert_array_equal(again.decide(x).log_probs, ee.decide(x).log_probs)
    assert repr(again) == repr(ee)
    again.export("net.zip")
    other = mlp()
    nn.init.zeros_(other[2].bias)
    for network, exits, message in (
        (other, ["0", "1"], "another network: its network is"),
        (mlp(), ["0"], r"another network: its places is \('0', '1'\), not \('0',\)"),
    ):
        with pytest.raises(UserError, match=message):
            ztw_rl.attach(network, example=x[:1], exits=exits).load_weights("exits")
    with pytest.raises(UserError, match=r"nowhere holds no exits\.json"):
        ztw_rl.attach(mlp(), example=x[:1], exits=2).load_weights("nowhere")


@pytest.mark.parametrize(
    ("network", "how", "message"),
    [
        ("resnet18", {}, "what exits hang on must be a torch module or a"),
        (
            mlp(),
            {"example": None},
            "example must be a batch of inputs, a tensor (B, ...), not None",
        ),
        (mlp(), {"example": torch.zeros(2)}, "a tensor (B, ...), not (2,)"),
        (mlp(), {"example": torch.zeros(1, 3)}, "cannot read the example, torch.float32 (1, 3)"),
        (mlp(), {"exits": "0"}, "exits must be a number or a list of submodules' names, not '0'"),
        (mlp(), {"exits": True}, "exits must be a number or a list of submodules' names, not True"),
        (mlp(), {"exits": ["3"]}, "no submodule '3'; did you mean '"),
        (mlp(), {"method": "swd"}, "there is no method 'swd'; did you mean 'sdn'?"),
        (mlp(), {"labels": ["a"]}, "the network tells 3 classes apart, but there are 1 labels"),
        (nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), {"exits": 1}, "gives one logit, but"),
        (
            nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 4), nn.Unflatten(1, (2, 2))),
            {"exits": 1},
            "the network must give (B, C) logits, not (1, 2, 2)",
        ),
    ],
)
def test_networks_that_cannot_be_used(network, how, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        ztw_rl.attach(network, **{"example": torch.zeros(1, 2), "exits": 2, **how})
    assert "\n" not in str(caught.value)


def test_parts_that_cannot_be_used():
    with pytest.raises(UserError, match="blocks and head must be torch modules, not 'head'"):
        ztw_rl.attach_blocks([mlp()[0]], "head", example=torch.zeros(1, 2))
    with pytest.raises(UserError, match="there are no blocks"):
        ztw_rl.attach_blocks([], mlp()[2], example=torch.zeros(1, 16))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "nothing is asked for; give budget, keep, risk or threshold"),
        ({"budget": 0.1}, "budget 0.1 is below the lowest cost, 0.238"),
        ({"budget": 0.5, "keep": 0.9}, "keep and budget exclude one another; give one"),
        ({"risk": (0.02,)}, "risk must be a share, or a share and a confidence, not (0.02,)"),
        ({"risk": 0.001}, "risk 0.001 cannot be shown by 60 images"),
        ({"threshold": 1.5}, "threshold 1.5 is no confidence"),
    ],
)
def test_points_that_cannot_be_had(how, message):
    x, labels = corners()
    ee = fitted()
    with pytest.raises(UserError, match=re.escape(message)):
        ee.calibrate(batches(x, labels), **how)
    with pytest.raises(UserError, match="keep is chosen on held-out inputs; give them to calibr"):
        ee.export("net.zip", keep=0.9)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_epochs": 0}, "n_epochs must be at least 1, not 0"),
        ({"learning_rate": -1.0}, "learning_rates must be all above 0"),
        ({"learning_rate": 1e30}, "are no finite numbers"),
    ],
)
def test_settings_that_cannot_be(how, message):
    with pytest.raises(UserError, match=message):
        fitted(**how)


def test_the_tutorials_example(monkeypatch, capsys):
    """Its lines, on fewer digits."""
    digits = datasets.load_digits()
    few = SimpleNamespace(images=digits.images[:390], target=digits.target[:390])
    monkeypatch.setattr(datasets, "load_digits", lambda: few)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    torch.manual_seed(0)
    scope: dict[str, object] = {}
    exec(compile(example, PAGE.name, "exec"), scope)
    worth = scope["worth"]
    assert worth.score > 0.5
    assert worth.cost == pytest.approx(0.6, abs=0.1)
    shown = capsys.readouterr().out
    assert "chosen on all 130 held-out inputs" in shown
    assert f"{worth.score:.1%} right at {worth.cost:.2f} of the operations" in shown
    assert ztw_rl.load("net.onnx").decide(scope["images"][:5]).labels.shape == (5,)


def test_the_tutorials_commands_exist():
    lines = re.findall(r"^ztw-rl supervised (.*)$", PAGE.read_text(), re.MULTILINE)
    kinds = {"train-backbone": TrainBackbone, "train-ics": TrainICs}
    assert {line.split()[0] for line in lines} == set(kinds)
    for line in lines:
        command, *arguments = shlex.split(line)
        args = read(kinds[command], arguments, command)
        assert library_arch(args.arch) is not None or not arguments
