from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.networks import early_exit_nature_cnn
from ztw_rl import cli, runs
from ztw_rl.core.checkpoint import load_tensors, save_tensors

SMALL = [
    "--ppo.n-envs=2",
    "--ppo.n-steps=8",
    "--ppo.batch-size=8",
    "--ppo.n-epochs=1",
    "--ppo.checkpoint-interval=16",
]


def config_of(run_dir: str) -> dict:
    return json.loads(Path(run_dir, "config.json").read_text())


def test_default_recipe_flag(folder, capfd):
    (folder / "envs").mkdir()
    (folder / "envs" / "pong.yaml").write_text(
        "ppo: {n_envs: 3, n_steps: 8, batch_size: 8}\natari: {frame_skip: 2}"
    )
    arguments = ["train-ppo", "--env=PONG", "--n-timesteps=1", "--ppo.n-envs", "2", "--seed", "5"]
    assert cli.main(arguments) == 0
    config = config_of("runs/ppo/pong-001")
    assert config["seed"] == 5
    assert config["ppo"]["n_timesteps"] == 1
    assert config["ppo"]["n_envs"] == 2
    assert config["ppo"]["n_steps"] == 8
    assert config["ppo"]["gamma"] == 0.99
    assert config["atari"]["game"] == "pong"
    assert config["atari"]["frame_skip"] == 2


def test_train_resume_extend(capfd):
    assert cli.main(["train-ppo", "--env", "Breakout", "--n-timesteps", "16", *SMALL]) == 0
    out = capfd.readouterr().out
    assert "trained for 16 steps: runs/ppo/breakout-001" in out
    assert out.endswith("next: ztw-rl distill-ics --policy runs/ppo/breakout-001\n")
    assert cli.main(["train-ppo", "--env", "breakout", "--resume", "--n-timesteps", "48"]) == 0
    assert "trained for 48 steps" in capfd.readouterr().out
    assert config_of("runs/ppo/breakout-001")["ppo"]["n_timesteps"] == 48
    assert cli.main(["train-ppo", "--resume=runs/ppo/breakout-001", "--n-timesteps=64"]) == 0
    assert "trained for 64 steps" in capfd.readouterr().out
    assert cli.main(["train-ppo", "--env", "Breakout", "--n-timesteps", "1", *SMALL]) == 0
    assert "runs/ppo/breakout-002" in capfd.readouterr().out


def test_compiled_without_a_compiler(folder, one_error, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    error = one_error("train-ppo", "--env=Pong", "--device=cpu", "--ppo.compiled", *SMALL)
    assert "there is no C++ compiler 'no-such-compiler'" in error
    assert "leave out --ppo.compiled" in error
    assert not Path("runs").exists()


def test_a_run_without_a_checkpoint_is_passed_over(capfd, one_error):
    assert cli.main(["train-ppo", "--env", "Pong", "--n-timesteps", "16", *SMALL]) == 0
    shutil.copytree("runs/ppo/pong-001", "runs/ppo/pong-002")
    shutil.rmtree("runs/ppo/pong-002/checkpoints")
    assert cli.main(["train-ppo", "--env=Pong", "--resume", "--n-timesteps=32"]) == 0
    assert "trained for 32 steps: runs/ppo/pong-001" in capfd.readouterr().out
    shutil.rmtree("runs/ppo/pong-001")
    message = "there is no run runs/ppo/pong-* to resume"
    assert message in one_error("train-ppo", "--env=Pong", "--resume")


def test_a_run_that_goes_on_is_not_resumed(capfd, one_error):
    assert cli.main(["train-ppo", "--env", "Pong", "--n-timesteps", "16", *SMALL]) == 0
    before = sorted(Path("runs").rglob("*"))
    with runs.claimed(Path("runs/ppo/pong-001")):
        error = one_error("train-ppo", "--env=Pong", "--resume", "--n-timesteps=32")
    assert "error: runs/ppo/pong-001 is still going on; stop it first" in error
    assert sorted(Path("runs").rglob("*")) == before
    assert config_of("runs/ppo/pong-001")["ppo"]["n_timesteps"] == 16


def test_beginning_with_weights(capfd, one_error):
    assert cli.main(["train-ppo", "--env", "Pong", "--n-timesteps", "16", *SMALL]) == 0
    first = Path("runs/ppo/pong-001/checkpoints/step_000000016/policy.safetensors")
    weights = Path("ppo.safetensors")
    shutil.copy(first, weights)
    capfd.readouterr()
    # A rate of nearly nothing: what comes out is what went in.
    still = ["--ppo.learning-rate=1e-12", "--seed=5"]
    command = ["train-ppo", "--env=Pong", f"--init={weights}", "--n-timesteps=16", *SMALL, *still]
    assert cli.main(command) == 0
    captured = capfd.readouterr()
    shown = " ".join(captured.err.split())
    assert "begins with the weights of ppo.safetensors; steps are counted from 0" in shown
    assert "trained for 16 steps: runs/ppo/pong-002" in captured.out
    assert config_of("runs/ppo/pong-002")["init"] == "ppo.safetensors"
    before = load_tensors(weights)
    after = load_tensors(Path("runs/ppo/pong-002/checkpoints/step_000000016/policy.safetensors"))
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=1e-8)
    # A resumed run has its own checkpoint, and does not need the file any more.
    weights.unlink()
    assert cli.main(["train-ppo", "--resume=runs/ppo/pong-002", "--n-timesteps=32"]) == 0
    captured = capfd.readouterr()
    assert "trained for 32 steps" in captured.out
    assert "begins with" not in captured.err
    error = one_error("train-ppo", "--resume=runs/ppo/pong-002", "--init=other")
    assert "--init is ppo.safetensors in runs/ppo/pong-002 and cannot become other" in error


def test_weights_that_no_training_can_begin_with(folder, capfd, one_error):
    arguments = ["train-ppo", "--env=Pong", "--n-timesteps=16", *SMALL]
    assert "gone is missing" in one_error(*arguments, "--init=gone")
    Path("text").write_text("no weights")
    assert "text is damaged" in one_error(*arguments, "--init=text")
    assert "is damaged" in one_error(*arguments, "--init=.")
    save_tensors(Path("agent"), early_exit_nature_cnn(6).state_dict())
    message = "agent belongs to another network or game"
    assert message in one_error(*arguments, "--init=agent")
    assert sorted(p.name for p in folder.iterdir()) == ["agent", "text"]
    assert cli.main(["train-ppo", "--env=Breakout", "--n-timesteps=16", *SMALL]) == 0
    capfd.readouterr()
    other = "runs/ppo/breakout-001/checkpoints/step_000000016/policy.safetensors"
    message = f"{other} belongs to another network or game"
    assert message in one_error(*arguments, f"--init={other}")
    assert not Path("runs/ppo/pong-001").exists()


def test_what_a_resumed_run_may_not_change(capfd, one_error):
    assert cli.main(["train-ppo", "--env", "Pong", "--n-timesteps", "16", *SMALL]) == 0
    before = Path("runs/ppo/pong-001/config.json").read_bytes()
    capfd.readouterr()
    for flag, message in [
        ("--ppo.n-envs=1", "--ppo.n-envs is 2 in runs/ppo/pong-001 and cannot become 1 midway"),
        ("--seed=1", "--seed is 0 in runs/ppo/pong-001 and cannot become 1 midway"),
        ("--atari.frame-skip=1", "--atari.frame-skip is 4"),
        ("--env=Breakout", "runs/ppo/pong-001 plays pong, not breakout"),
    ]:
        arguments = ["train-ppo", "--resume", "runs/ppo/pong-001", flag]
        assert one_error(*arguments).startswith(f"error: {message}")
    assert Path("runs/ppo/pong-001/config.json").read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_checkpoints(capfd, damage):
    assert cli.main(["train-ppo", "--env", "Pong", "--n-timesteps", "16", *SMALL]) == 0
    capfd.readouterr()
    weights = Path("runs/ppo/pong-001/checkpoints/step_000000016/policy.safetensors")
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    assert cli.main(["train-ppo", "--resume", "runs/ppo/pong-001"]) == 2
    error = capfd.readouterr().err.replace("\n", " ")
    assert f"error: {weights} is {'missing' if damage == 'missing' else 'damaged'}" in error
