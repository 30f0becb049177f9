from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from safetensors import SafetensorError

from ztw_rl.core import checkpoint
from ztw_rl.core.checkpoint import (
    KEPT_CHECKPOINTS,
    checkpoints,
    fingerprint,
    load_optimizer_tensors,
    load_state,
    load_tensors,
    newest_checkpoint,
    optimizer_tensors,
    save_checkpoint,
    save_tensors,
)
from ztw_rl.core.files import load_json
from ztw_rl.errors import UserError

WEIGHTS = {"a": torch.arange(600.0).view(20, 30), "n": torch.tensor([1, 2, 3])}


def crash(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")],
)
def test_a_full_disk_leaves_the_old_tensors(tmp_path, monkeypatch, error):
    path = tmp_path / "weights.safetensors"
    save_tensors(path, WEIGHTS)
    before = path.read_bytes()

    def half(tensors, temporary):
        temporary.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(UserError, match=r"cannot write to .*weights\.safetensors: .*No space"):
        save_tensors(path, {"a": torch.zeros(1)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_tensors_come_back(tmp_path):
    path = tmp_path / "deep" / "weights.safetensors"
    save_tensors(path, WEIGHTS)
    torch.testing.assert_close(load_tensors(path), WEIGHTS, rtol=0, atol=0)
    save_tensors(path, WEIGHTS, torch.float16)
    stored = load_tensors(path)
    assert (stored["a"].dtype, stored["n"].dtype) == (torch.float16, torch.int64)


def test_views_and_shared_memory_are_stored(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    tensors = {"base": base, "same": base, "turned": base.t()}
    save_tensors(tmp_path / "w", tensors)
    torch.testing.assert_close(load_tensors(tmp_path / "w"), tensors)


@pytest.mark.parametrize("length", [0, 4, 60, 2000, -1])
def test_truncated_tensors(tmp_path, length):
    path = tmp_path / "weights.safetensors"
    save_tensors(path, WEIGHTS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError) as raised:
        load_tensors(path)
    assert str(raised.value).startswith(f"{path} is damaged")
    assert "\n" not in str(raised.value)


def test_files_that_are_no_tensors(tmp_path):
    (tmp_path / "w").write_bytes(b"PK\x03\x04" + bytes(range(256)) * 8)
    for name, message in (("w", "is damaged"), ("missing", "is missing"), (".", "is damaged")):
        with pytest.raises(UserError, match=message):
            load_tensors(tmp_path / name)


@dataclass(frozen=True)
class State:
    n_timesteps: int


def save(run_dir, step, value=0.0):
    tensors = {"model": {"w": torch.full((2,), value)}}
    return save_checkpoint(run_dir, step, tensors, State(step))


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    for step in (100, 20, 300, 4000, 5000):
        save(tmp_path, step)
    assert KEPT_CHECKPOINTS == 2
    assert [p.name for p in checkpoints(tmp_path)] == ["step_000004000", "step_000005000"]
    newest = newest_checkpoint(tmp_path)
    assert load_json(newest / "state.json") == {"n_timesteps": 5000}
    assert load_state(State, newest) == State(5000)
    assert sorted(p.name for p in newest.iterdir()) == ["model.safetensors", "state.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "key 'n_timesteps' is missing"),
        ("[]", r"found \[\]"),
        ('{"n_timesteps": "x"}', "n_timesteps is 'x'"),
        ('{"n_batches": 3}', "unknown key 'n_batches'"),
    ],
)
def test_counters_that_are_not_there(tmp_path, content, message):
    (save(tmp_path, 10) / "state.json").write_text(content)
    with pytest.raises(UserError, match=rf"step_000000010/state\.json: {message}"):
        load_state(State, newest_checkpoint(tmp_path))


def test_a_crash_while_saving_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_json", crash)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 20)
    assert newest_checkpoint(tmp_path).name == "step_000000010"
    save(tmp_path, 20, value=7.0)
    newest = newest_checkpoint(tmp_path)
    assert newest.name == "step_000000020"
    assert load_tensors(newest / "model.safetensors")["w"].tolist() == [7.0, 7.0]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_checkpoint_that_is_there_stays(tmp_path):
    save(tmp_path, 10, value=1.0)
    save(tmp_path, 10, value=2.0)
    assert load_tensors(newest_checkpoint(tmp_path) / "model.safetensors")["w"][0] == 1.0


def test_no_checkpoint_yet(tmp_path):
    with pytest.raises(UserError, match="has no checkpoint yet"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("shapes", [[(2,)], [(2,), (3, 2)]])
def test_another_networks_optimiser(shapes):
    def trained(shapes):
        weights = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
        optimizer = torch.optim.Adam(weights)
        torch.stack([w.sum() for w in weights]).sum().backward()
        optimizer.step()
        return optimizer

    stored = optimizer_tensors(trained([(2,), (3,)]))
    load_optimizer_tensors(trained([(2,), (3,)]), stored)
    for other in (stored, {"blocks.0.weight": torch.ones(2)}, {"step": torch.ones(())}):
        with pytest.raises(
            UserError, match=r"optimizer\.safetensors .* belongs to another network"
        ):
            load_optimizer_tensors(trained(shapes), other)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "weight",
    [
        torch.tensor([1.0, -2.0]),
        torch.arange(1.0, 49.0).view(2, 3, 2, 4).to(memory_format=torch.channels_last),
        torch.arange(1.0, 7.0).view(3, 2).t(),
    ],
    ids=["plain", "channels-last", "by column"],
)
def test_an_optimiser_goes_on_where_it_was(tmp_path, weight, fused):
    def steps(weight, optimizer, n):
        for i in range(n):
            optimizer.zero_grad()
            (weight * (i + 1.0)).square().sum().backward()
            optimizer.step()

    straight = torch.nn.Parameter(weight.clone())
    assert straight.stride() == weight.stride()
    optimizer = torch.optim.Adam([straight], lr=0.1, fused=fused)
    steps(straight, optimizer, 3)
    save_tensors(tmp_path / "o", optimizer_tensors(optimizer))
    resumed = torch.nn.Parameter(straight.detach().clone())
    other = torch.optim.Adam([resumed], lr=0.1, fused=fused)
    load_optimizer_tensors(other, load_tensors(tmp_path / "o"))
    # Fused kernels read memory in order, and on a GPU refuse another layout.
    assert other.state[resumed]["exp_avg_sq"].stride() == resumed.stride()
    steps(straight, optimizer, 3)
    steps(resumed, other, 3)
    assert torch.equal(straight, resumed)


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    """Not of their names: a billion has one digit more."""
    for step in (999_900_000, 1_000_000_000, 1_000_100_000):
        saved = save(tmp_path, step)
        assert newest_checkpoint(tmp_path) == saved
        (tmp_path / "checkpoints" / "step_2000000000.old").mkdir(exist_ok=True)


LAYERS = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "b": torch.tensor([0.1])}


def test_storing_as_halves_changes_nothing():
    stored = {name: t.half().float() for name, t in LAYERS.items()}
    assert fingerprint(stored) == fingerprint(LAYERS)
    assert len(fingerprint(LAYERS)) == 16


def test_order_and_memory_format_change_nothing():
    strided = {"b": LAYERS["b"], "a": LAYERS["a"].t().contiguous().t()}
    assert fingerprint(strided) == fingerprint(LAYERS)


def test_values_names_and_shapes_count():
    others = [
        {**LAYERS, "b": torch.tensor([0.2])},
        {"a": LAYERS["a"], "c": LAYERS["b"]},
        {**LAYERS, "a": LAYERS["a"].flatten()},
        {"a": LAYERS["a"]},
        {**LAYERS, "b": torch.tensor([0])},
    ]
    assert len({fingerprint(w) for w in (LAYERS, *others)}) == 6
