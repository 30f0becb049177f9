from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ztw_rl import cli

SMALL = [
    "--ppo.n-envs=2",
    "--ppo.n-steps=8",
    "--ppo.batch-size=8",
    "--ppo.n-epochs=1",
    "--ppo.checkpoint-interval=16",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory: an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def python(*arguments: str, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **kwargs
    )


@pytest.mark.parametrize("arguments", [["--help"], ["train-ppo", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    program = (
        "import sys; from ztw_rl.cli import main; code = main(sys.argv[1:]); "
        "print('heavy:', sorted({'torch', 'stable_baselines3', 'pandas', 'matplotlib', 'scipy', "
        "'gymnasium', 'cv2'} & set(sys.modules))); sys.exit(code)"
    )
    done = python("-c", program, *arguments)
    assert done.returncode == 0, done.stderr
    assert "heavy: []" in done.stdout
    assert "train-ppo" in done.stdout


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("ztw_rl.cli", "rich"),
        ("ztw_rl.rl.tables", "pandas"),
        ("ztw_rl.rl.distill", "stable_baselines3"),
    ],
)
def test_what_modules_do_not_need(module, unwanted):
    done = python("-c", f"import sys, {module}; print('{unwanted}' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


def test_every_command_has_its_module_and_help(capsys):
    for name in cli.COMMANDS:
        assert cli.main([*name.split(), "--help"]) == 0
        assert f"usage: ztw-rl {name}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["train-ppo", "distill-ics", "eval"])
def test_help_where_there_is_nothing_to_resume(folder, capfd, command):
    assert cli.main([command, "--resume", "--help"]) == 0
    shown = capfd.readouterr().out
    assert f"usage: ztw-rl {command}" in shown
    assert "(default: Pong)" not in shown
    assert cli.main([command, "--resume", "--no-such-flag"]) == 2
    assert "--no-such-flag" in capfd.readouterr().err


def test_help_shows_the_games_own_settings(folder, capsys):
    (folder / "envs").mkdir()
    (folder / "envs" / "pong.yaml").write_text("ppo: {n_envs: 13}")
    assert cli.main(["train-ppo", "--env", "Pong", "--help"]) == 0
    assert "(default: 13)" in capsys.readouterr().out


def test_version_and_no_command(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ztw-rl ")
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def one_error(capsys, arguments: list[str]) -> str:
    """The single line on stderr of a command that a user's mistake stops."""
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tarin-ppo"], "there is no command 'tarin-ppo'; did you mean 'train-ppo'?"),
        (
            ["train-ppo", "--env", "Pnog"],
            "no game or environment is 'Pnog'; did you mean 'pong'?",
        ),
        (["train-ppo", "--env="], "--env needs the name of an environment"),
        (["train-ppo", "--env", ""], "--env needs the name of an environment"),
        (["train-ppo", "--env=Pong", "--device=cuda:99"], "device 'cuda:99' is not available"),
        (["train-ppo", "--env=Pong", "--device=gpu"], "unknown device 'gpu'"),
        (["train-ppo", "--env=Pong", "--device=meta"], "unknown device 'meta'; use auto"),
        (["train-ppo", "--env=Pong", "--device=cuda:300"], "device 'cuda:300' is not available"),
        (["train-ppo", "--env=Pong", "--ppo.n-envs=0"], "n_envs must be at least 1, not 0"),
        (["train-ppo", "--env=Pong", "--atari.game=pnog"], "no Atari game is called 'pnog'"),
        (["train-ppo", "--env=Pong", "--n-timesteps=0"], "n_timesteps must be at least 1, not 0"),
        (["train-ppo", "--env=Pong", "--seed=-1"], "seed must be between 0 and 1000000000, not -1"),
        (["train-ppo", "--env=Pong", "--seed=9999999999"], "seed must be between 0 and 1000000000"),
        (["train-ppo", "--env=Pong", "--resume"], "there is no run runs/ppo/pong-* to resume"),
        (["train-ppo", "--resume"], "there is no run runs/ppo/* to resume"),
        (["train-ppo", "--resume", "nowhere"], "there is no run folder nowhere"),
        (["train-ppo", "--env=Pong", "--resume=nowhere"], "there is no run folder nowhere"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder, capsys, arguments, message):
    assert message in one_error(capsys, arguments)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train-ppo"], "missing from ztw-rl train-ppo: --env"),
        (["train-ppo", "--env"], "--env"),
        (["train-ppo", "--env=Pong", "--ppo.n-env=8"], "--ppo.n-envs"),
        (["train-ppo", "--env=Pong", "--ppo.n-envs=eight"], "invalid literal"),
        (["train-ppo", "--env=Pong", "--ppo.schedule=cosine"], "('constant', 'linear')"),
        (["train-ppo", "--env=Pong", "surplus"], "surplus"),
    ],
)
def test_unusable_flags(folder, capsys, arguments, message):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert captured.out == ""
    assert not list(folder.iterdir())


def test_wrong_type_in_a_recipe(folder, capsys):
    (folder / "envs").mkdir()
    (folder / "envs" / "pong.yaml").write_text("ppo: {n_envs: eight}")
    error = one_error(capsys, ["train-ppo", "--env", "Pong"])
    assert "envs/pong.yaml: ppo.n_envs is 'eight' (text), expected a whole number" in error
    assert not (folder / "runs").exists()


def test_runs_that_cannot_be_written(folder, capsys):
    (folder / "runs").write_text("in the way")
    assert "is not a folder" in one_error(capsys, ["train-ppo", "--env", "Pong"])
    error = one_error(capsys, ["train-ppo", "--env", "Pong", "--runs-dir", "runs/deeper"])
    assert "is not a folder" in error
    assert [p.name for p in folder.iterdir()] == ["runs"]


def stop_training(folder: Path, signum: signal.Signals) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a long training stopped after its third checkpoint."""
    command = [sys.executable, "-m", "ztw_rl.cli", "train-ppo", "--env", "Pong", *SMALL]
    with subprocess.Popen(
        [*command, "--device=cpu"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while newest_step(folder) < 48:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def newest_step(folder: Path) -> int:
    names = [p.name for p in folder.glob("runs/ppo/pong-001/checkpoints/step_*")]
    return max((int(name.split("_")[1]) for name in names), default=0)


def test_ctrl_c_says_how_to_go_on(folder):
    code, out, err = stop_training(folder, signal.SIGINT)
    assert code == 130, err
    assert "Traceback" not in err
    advice = out.strip().splitlines()[-1].split("go on with: ")[1]
    assert advice == "ztw-rl train-ppo --resume runs/ppo/pong-001 --device cpu"
    assert cli.main([*shlex.split(advice)[1:], "--n-timesteps", "16"]) == 0


def test_a_killed_run_loses_at_most_one_checkpoint_interval(folder, capsys):
    code, _, err = stop_training(folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    kept = newest_step(folder)
    shown = [int(step.replace(",", "")) for step in re.findall(r"step ([\d,]+)", err)]
    # The interval is one rollout of 16 steps, and each line on stderr is one.
    assert kept >= max(shown)
    assert cli.main(["train-ppo", "--resume", "--n-timesteps", str(kept + 16)]) == 0
    assert f"trained for {kept + 16:,} steps" in capsys.readouterr().out


def test_ctrl_c_elsewhere_ends_quietly(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert cli.main([]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_leaves_early():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "ztw_rl.cli", "train-ppo", "--help"],
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 141
    assert done.stderr == ""
