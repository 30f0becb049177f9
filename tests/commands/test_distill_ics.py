from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from stable_baselines3 import PPO

from ztw_rl import cli, runs
from ztw_rl.core.checkpoint import load_tensors, newest_checkpoint
from ztw_rl.rl import distill as module
from ztw_rl.rl.agent import load_agent
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv

FIRST = Path("runs/distill/pong-001")


def config_of(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def test_the_newest_run_is_distilled_by_default(ppo_run, distill, capfd):
    older = Path("runs/ppo/pong-000")
    shutil.copytree(ppo_run, older)
    os.utime(older / "config.json", (1, 1))
    assert distill() == 0
    out = capfd.readouterr().out
    assert "distilled over 96 steps: runs/distill/pong-001/agent" in out
    assert out.endswith("next: ztw-rl eval --agent runs/distill/pong-001\n")
    assert config_of(FIRST)["policy"] == str(ppo_run)
    agent = load_agent(FIRST / "agent")
    provenance = agent.config.provenance
    assert (provenance.ppo_timesteps, provenance.ppo_seed) == (16, 0)
    assert (provenance.distill_timesteps, provenance.distill_seed) == (32, 0)
    assert agent.config.atari.max_frames == 100
    weights = load_tensors(newest_checkpoint(ppo_run) / "policy.safetensors")
    torch.testing.assert_close(
        agent.model.head.weight, weights["action_net.weight"], rtol=1e-3, atol=1e-6
    )


def test_an_agents_policy_is_distilled_anew(distill_run, distill):
    assert distill("--policy", f"{distill_run}/agent", "--distill.method=sdn") == 0
    made = Path("runs/distill/pong-002")
    assert load_agent(made / "agent").config.method == "sdn"
    teacher = load_tensors(made / "teacher.safetensors")
    agent = load_agent(distill_run / "agent").model.state_dict()
    assert all(torch.equal(tensor, agent[name]) for name, tensor in teacher.items())
    assert distill(f"--policy={distill_run}", "--seed=3") == 0
    assert config_of(Path("runs/distill/pong-003"))["seed"] == 3


def test_a_policy_that_knew_one_start_is_distilled_from_many(distill_run, distill, capfd):
    old = distill_run / "agent" / "agent.json"
    settings = json.loads(old.read_text())
    del settings["atari"]["noop_max"], settings["provenance"]["ppo_noop_max"]
    old.write_text(json.dumps(settings))
    assert distill(f"--policy={distill_run}") == 0
    made = load_agent(Path("runs/distill/pong-002/agent")).config
    assert (made.atari.noop_max, made.provenance.ppo_noop_max) == (30, 0)
    assert distill(f"--policy={distill_run}", "--atari.noop-max=5") == 0
    assert load_agent(Path("runs/distill/pong-003/agent")).config.atari.noop_max == 5
    capfd.readouterr()
    evaluate = ["eval", "--device=cpu", "--thresholds=0.5", "--n-episodes=1"]
    assert cli.main([*evaluate, "--agent=runs/distill/pong-003"]) == 0
    told = "trained on games that begin with noop_max 0 and 5, played with noop_max 30\n"
    assert told in capfd.readouterr().out
    assert cli.main([*evaluate, f"--agent={distill_run}", "--noop-max=0"]) == 0
    assert "trained on games" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("-1", "noop_max must be between 0 and 1000, not -1"),
        ("2.5", "atari.noop_max is 2.5 (a number), expected a whole number"),
        ("true", "atari.noop_max is True (true or false), expected a whole number"),
    ],
)
def test_starts_that_a_recipe_cannot_ask_for(ppo_run, folder, one_error, value, message):
    (folder / "envs").mkdir()
    (folder / "envs" / "pong.yaml").write_text(f"atari: {{noop_max: {value}}}")
    assert f"envs/pong.yaml: {'' if value != '-1' else 'atari.'}{message}" in one_error(
        "distill-ics"
    )


def test_an_sb3_zip(sb3_zip, distill, capfd):
    assert distill(f"--policy={sb3_zip}", "--atari.max-frames=100") == 0
    captured = capfd.readouterr()
    shown = " ".join(captured.err.split())
    assert "the imported policy scores" in shown
    assert "in 5 games of pong with pixels: sb3" in shown
    agent = load_agent(FIRST / "agent")
    assert (agent.config.atari.pixels, agent.config.atari.game) == ("sb3", "pong")
    assert agent.config.provenance.imported_from == "Pong.zip"
    assert agent.config.provenance.ppo_timesteps is None


def stop_after(monkeypatch, n_rollouts: int) -> None:
    """Press Ctrl-C when so many rollouts are about to be learnt from."""
    epochs, calls = module.Epochs, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == n_rollouts:
            os.kill(os.getpid(), signal.SIGINT)
        return epochs(*args)

    monkeypatch.setattr(module, "Epochs", interrupted)


def test_ctrl_c_and_resume(ppo_run, distill, capfd, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert distill() == 130
    out = capfd.readouterr().out
    assert out.startswith("stopped after 48 steps; go on with: ")
    assert not (FIRST / "agent").exists()
    advice = out.strip().split("go on with: ")[1]
    assert advice == "ztw-rl distill-ics --resume runs/distill/pong-001 --device cpu"
    # The run holds its teacher, so it does not need the policy any more.
    shutil.rmtree(ppo_run)
    assert cli.main(shlex.split(advice)[1:]) == 0
    assert "distilled over 96 steps" in capfd.readouterr().out
    assert load_agent(FIRST / "agent").config.provenance.ppo_timesteps == 16


def test_resume_without_a_value_takes_the_newest(distill_run, capfd):
    shutil.rmtree(distill_run / "agent")
    assert cli.main(["distill-ics", "--resume", "--device", "cpu"]) == 0
    assert (distill_run / "agent" / "agent.json").is_file()


def test_a_resumed_run_may_be_called_by_its_game(distill_run, one_error):
    assert cli.main(["distill-ics", "--resume", "--env=ALE/Pong-v5", "--device=cpu"]) == 0
    error = one_error("distill-ics", "--resume", "--env=Breakout")
    assert error == f"error: {distill_run} plays pong, not Breakout; leave out --env\n"


def test_runs_without_a_checkpoint_are_passed_over(ppo_run, distill_run, distill, capfd):
    """As a kill before the first checkpoint leaves them."""
    for run in (ppo_run, distill_run):
        shutil.copytree(run, run.with_name("pong-002"))
        shutil.rmtree(run.with_name("pong-002") / "checkpoints")
    assert cli.main(["distill-ics", "--resume", "--device=cpu"]) == 0
    assert "going on in runs/distill/pong-001" in capfd.readouterr().err
    assert distill() == 0
    assert config_of(Path("runs/distill/pong-003"))["policy"] == str(ppo_run)


def test_a_run_that_goes_on_is_not_resumed(distill_run, one_error):
    before = (distill_run / "config.json").read_bytes()
    with runs.claimed(distill_run):
        error = one_error("distill-ics", "--resume", "--device=cpu")
    assert error.startswith(f"error: {distill_run} is still going on; ")
    assert (distill_run / "config.json").read_bytes() == before


def test_a_recipe_of_the_policys_game(ppo_run, distill, folder):
    (folder / "envs").mkdir()
    (folder / "envs" / "pongfast.yaml").write_text(
        "atari: {game: pong}\ndistill: {ic_batch_size: 8}"
    )
    assert distill("--env=pongfast") == 0
    config = config_of(FIRST)
    assert config["distill"]["ic_batch_size"] == 8
    # The pixels stay the policy's own.
    assert config["atari"]["max_frames"] == 100
    assert cli.main(["distill-ics", "--resume", "--env=pongfast", "--device=cpu"]) == 0


def test_settings_cannot_change_midway(distill_run, one_error):
    before = (distill_run / "config.json").read_bytes()
    for flag in ("--seed=1", "--distill.n-timesteps=64", "--atari.frame-skip=1", "--policy=x"):
        name, value = flag.split("=")
        error = one_error("distill-ics", f"--resume={distill_run}", flag)
        assert error.startswith(f"error: {name} is ")
        assert f" in {distill_run} and cannot become {value} midway; start a new run" in error
    error = one_error("distill-ics", "--resume", str(distill_run), "another")
    assert error == "error: --resume takes one run folder, not 2\n"
    assert (distill_run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no run with a checkpoint in runs/ppo; begin with: ztw-rl train-ppo"),
        (["--policy=nowhere"], "nowhere is no policy; name a run of train-ppo"),
        (["--policy=gone.zip"], "gone.zip does not exist"),
        (["--policy=gone.zip", "--env=Pong"], "gone.zip does not exist"),
        (["--resume"], "there is no run with a checkpoint in runs/distill; begin with"),
        (["--resume=nowhere"], "there is no run folder nowhere"),
    ],
)
def test_nothing_to_distil(folder, one_error, arguments, message):
    assert message in one_error("distill-ics", *arguments)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env=Breakout"], "runs/ppo/pong-001 plays pong, not Breakout; leave out --env"),
        (["--atari.frame-skip=2"], "leave out --atari.* flags"),
        (["--device=cuda:99"], "device 'cuda:99' is not available here; use the device cpu"),
        (["--device=gpu"], "unknown device 'gpu'"),
        (["--seed=-1"], "seed must be between 0 and 1000000000, not -1"),
        (["--distill.n-envs=0"], "n_envs must be at least 1, not 0"),
        (["--distill.exits", "conv9"], "exits must be some of input, conv1, conv2, conv3"),
        (["--distill.exits", "conv2", "conv1"], "exits must be some of input, conv1"),
    ],
)
def test_mistakes_leave_no_run_behind(ppo_run, one_error, arguments, message):
    assert message in one_error("distill-ics", *arguments)
    assert [p.name for p in Path("runs").iterdir()] == ["ppo"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("model.zip", [], "say what model.zip plays, such as --env Pong"),
        (
            "model.zip",
            ["--env=Pnog"],
            "no game or environment is 'Pnog'; did you mean 'pong'?",
        ),
        ("model.zip", ["--env=Breakout"], "the policy has 6 actions, but breakout has 4"),
    ],
)
def test_zips_of_unknown_or_other_games(folder, sb3_zip, one_error, name, arguments, message):
    shutil.copy(sb3_zip, folder / name)
    assert message in one_error("distill-ics", f"--policy={name}", *arguments)
    assert [p.name for p in folder.iterdir()] == [name]


def test_a_zip_with_hidden_layers_on_other_frames(folder, distill):
    env = AtariVecEnv(AtariConfig(screen_size=64, frame_stack=2), 2, n_threads=1)
    kwargs = {"net_arch": [32]}
    PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu", policy_kwargs=kwargs).save("pong")
    env.close()
    frames = ("--atari.pixels=ale", "--atari.screen-size=64", "--atari.frame-stack=2")
    assert distill("--policy=pong.zip", *frames) == 0
    network = load_agent(FIRST / "agent").config.network
    assert (network.input_shape, network.hidden) == ((2, 64, 64), (32,))
    assert network.activation == "tanh"


@pytest.mark.parametrize("damage", ["truncated", "missing", "no checkpoint"])
def test_damaged_policies(ppo_run, one_error, damage):
    weights = newest_checkpoint(ppo_run) / "policy.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
        message = f"{weights} is damaged"
    elif damage == "missing":
        weights.unlink()
        message = f"{weights} is missing"
    else:
        shutil.rmtree(ppo_run / "checkpoints")
        message = f"{ppo_run} has no checkpoint yet"
    assert message in one_error("distill-ics", f"--policy={ppo_run}")
    assert [p.name for p in Path("runs").iterdir()] == ["ppo"]


def test_an_unfinished_distillation_is_no_policy(distill_run, one_error):
    shutil.rmtree(distill_run / "agent")
    error = one_error("distill-ics", f"--policy={distill_run}")
    assert f"{distill_run} holds no agent.json; is its distillation finished?" in error


def test_wrong_type_in_a_recipe(ppo_run, folder, one_error):
    (folder / "envs").mkdir()
    (folder / "envs" / "pong.yaml").write_text("distill: {n_steps: many}")
    error = one_error("distill-ics")
    assert "envs/pong.yaml: distill.n_steps is 'many' (text), expected a whole number" in error


def test_runs_that_cannot_be_written(ppo_run, folder, one_error):
    Path("runs/distill").write_text("in the way")
    assert "is not a folder" in one_error("distill-ics")
    assert Path("runs/distill").read_text() == "in the way"


def test_a_student(ppo_run, distill, one_error, capfd):
    assert distill("--method=student", "--distill.student-of=conv2") == 0
    assert "distilled over 32 steps" in capfd.readouterr().out
    config = load_agent(FIRST / "agent").config
    assert (config.method, config.student_of, config.exits) == ("student", "conv2", ())
    assert config_of(FIRST)["distill"]["method"] == "student"
    assert cli.main(["distill-ics", "--resume", "--device=cpu"]) == 0
    assert "distilled over 32 steps" in capfd.readouterr().out
    error = one_error("distill-ics", f"--policy={FIRST}")
    assert "is a student, a copy of another policy; name that one" in error


@pytest.mark.parametrize("method", ["sdn", "cascade", "ensemble", "ztw"])
def test_method_in_short(ppo_run, distill, method):
    assert distill(f"--method={method}") == 0
    assert load_agent(FIRST / "agent").config.method == method
