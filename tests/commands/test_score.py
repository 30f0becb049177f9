from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from ztw_rl import cli

CPU = "--device=cpu"


@pytest.fixture
def score(capfd):
    """Scores a policy; what the command says."""

    def score(*arguments: str) -> str:
        capfd.readouterr()
        assert cli.main(["score", CPU, *arguments]) == 0
        return capfd.readouterr().out

    return score


def mean(shown: str) -> str:
    return re.search(r"scores (-?[\d.]+) \(95 %", shown)[1]


@pytest.fixture
def longer(distill_run) -> Path:
    """An agent whose games are long enough for points."""
    config = distill_run / "agent" / "agent.json"
    config.write_text(config.read_text().replace('"max_frames": 100', '"max_frames": 1200'))
    return distill_run


def test_the_newest_run_by_default(ppo_run, score):
    before = set(Path().rglob("*"))
    shown = score("--n-episodes=3")
    assert f"{ppo_run} scores 0.0 (95 % interval 0.0 to 0.0; " in shown
    assert (
        "in 3 games of pong: greedy actions, pixels ale, sticky actions 0.1, noop_max 30\n" in shown
    )
    assert "random play scores -20.2 with sticky actions 0.1\n" in shown
    assert "full policies that others trained on pong score 20 to 21\n" in shown
    # Also where no bar moves.
    assert "games: 3 of 3" in shown
    assert set(Path().rglob("*")) == before


def test_the_games_are_those_of_an_evaluation(longer, score):
    how = ["--action-mode=sample", "--n-episodes=2"]
    shown = score(f"--policy={longer}", "--seed=4", *how)
    assert cli.main(["eval", "--thresholds=0.5", "--seed=4", "--output=out", CPU, *how]) == 0
    rows = json.loads(Path("out/curve.json").read_text())["rows"]
    (backbone,) = (row for row in rows if row["rule"] == "backbone")
    assert mean(shown) == f"{backbone['return_mean']:.1f}"
    assert "2 games of pong: sampled actions" in shown
    others = {mean(score(f"--policy={longer}", f"--seed={seed}", *how)) for seed in (5, 6, 7)}
    assert others != {mean(shown)}


def test_games_are_grouped_by_their_start(ppo_run, score):
    shown = score("--n-episodes=24")
    # The first 24 seeds draw as many odd starts as even ones.
    assert "before the first decision, mod 2: 0: 0.0 (12 games), 1: 0.0 (12 games); p = 1.0000" in (
        shown
    )
    assert "mod 4: 0: " in shown
    assert "too few games to test" in shown
    assert "warning" not in shown
    assert "trained on games" not in shown


def test_starts_that_say_nothing(ppo_run, score):
    shown = score("--n-episodes=3", "--noop-max=0")
    assert "trained on games that begin with noop_max 30, played with noop_max 0\n" in shown
    assert "all games began after as many frames" in shown
    few = score("--n-episodes=3")
    assert "whether the score depends on the start needs 8 games a group" in few


def test_equal_games_are_told_by_their_frames(ppo_run, score):
    how = ["--n-episodes=2", "--seed=0"]
    config = ppo_run / "config.json"
    certain = '"repeat_action_probability": 0.0'
    config.write_text(config.read_text().replace('"repeat_action_probability": 0.1', certain))
    assert "only 1 of the full policy's 2 games differ in what they showed" in score(
        *how, "--noop-max=0"
    )
    assert "differ in" not in score(*how)


def test_settings_come_from_the_games_recipe(ppo_run, score):
    Path("envs").mkdir()
    Path("envs/pong.yaml").write_text("evaluation: {n_episodes: 2}\nreference_return: [21, 21]\n")
    shown = score()
    assert "in 2 games of pong" in shown
    assert "full policies that others trained on pong score 21\n" in shown
    assert "random play" not in shown


def test_an_sb3_zip_plays_on_sb3s_pixels_unless_told_otherwise(sb3_zip, score):
    few = ["--n-episodes=1", "--atari.max-frames=100"]
    assert "pong: greedy actions, pixels sb3" in score(f"--policy={sb3_zip}", *few)
    shown = score(f"--policy={sb3_zip}", "--atari.pixels=ale", *few)
    assert "pong: greedy actions, pixels ale" in shown


def test_paths_are_shown_as_they_are(sb3_zip, score):
    shutil.copy(sb3_zip, "best[bold].ZIP")
    shown = score(
        "--policy=best[bold].ZIP", "--env=Pong", "--n-episodes=1", "--atari.max-frames=100"
    )
    assert "best[bold].ZIP scores" in shown


def test_random_play_needs_no_policy(folder, score):
    how = ["--random", "--env=Pong", "--n-episodes=3"]
    shown = score(*how)
    assert re.search(r"^random play scores -(2[01]|1\d)\.\d ", shown, re.MULTILINE)
    assert (
        "in 3 games of pong: sampled actions, pixels ale, sticky actions 0.1, noop_max 30\n"
        in shown
    )
    assert score(*how) == shown
    assert "pixels sb3, sticky actions 0, noop_max 0\n" in score(
        *how,
        "--noop-max=0",
        "--atari.pixels=sb3",
        "--atari.repeat-action-probability=0",
        "--atari.max-frames=99",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--random"], "--random needs --env, the name of a game or an environment, such as Pong"),
        (["--random", "--env=Pnog"], "'Pnog'"),
        (["--random", "--env=Pong", "--policy=mine.zip"], "leave out --policy"),
        (["--random", "--env=Pong", "--action-mode=greedy"], "leave out --action-mode greedy"),
        (["--random", "--no-random", "--env=Pong"], "given and taken back"),
        ([], "there is no run with a checkpoint in runs/ppo; begin with: ztw-rl train-ppo"),
        (["--policy="], "--policy is empty"),
        (["--policy=absent.zip"], "absent.zip does not exist"),
        (["--policy=folder.zip"], "folder.zip is a folder"),
        (["--policy=mine.zip"], "say what mine.zip plays, such as --env Pong"),
        (["--policy=mine.zip", "--env=Pnog"], "'Pnog'"),
        (["--policy=mine.zip", "--env=Breakout"], "6 actions, but breakout has 4"),
        (["--policy=mine.zip", "--env=Pong", "--atari.game=surround"], "leave out --atari.game"),
        (
            ["--policy=mine.zip", "--env=Pong", "--atari.screen-size=64"],
            "mine.zip reads observations of (4, 84, 84), but pong has (4, 64, 64)",
        ),
        (["--policy=mine.zip", "--env=Pong", "--device=gpu"], "gpu"),
        (["--policy=pongg"], "pongg is no policy; name a run of train-ppo, an agent, or"),
        (["--policy=weights.safetensors"], "weights.safetensors is no policy"),
        (["--policy=runs"], "runs is no policy"),
        (["--n-episodes=0"], "n_episodes"),
        (["--noop-max=-1"], "noop_max must be between 0 and 1000, not -1"),
        (["--atari.noop-max=3"], "games begin as --noop-max says; leave out --atari.noop-max"),
    ],
)
def test_policies_that_are_none(folder, sb3_zip, one_error, arguments, message):
    shutil.copy(sb3_zip, "mine.zip")
    for path in ("folder.zip", "runs"):
        Path(path).mkdir()
    Path("weights.safetensors").write_bytes(b"")
    assert message in one_error("score", *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--atari.pixels=sb3"], "leave out --atari.* flags"),
        (["--env=Breakout"], "runs/ppo/pong-001 plays pong, not Breakout; leave out --env"),
        (["--env=Pnog"], "'Pnog'"),
        (["--policy={checkpoint}"], "is a checkpoint; name its run, runs/ppo/pong-001\n"),
        (["--policy=runs/other"], "runs/other is no policy"),
    ],
)
def test_a_run_says_itself_what_it_is(ppo_run, one_error, arguments, message):
    (checkpoint,) = (ppo_run / "checkpoints").iterdir()
    other = Path("runs/other")
    other.mkdir()
    (other / "config.json").write_text('{"agent": "pong"}')
    given = [argument.format(checkpoint=checkpoint) for argument in arguments]
    assert message in one_error("score", *given)


def test_a_run_without_a_checkpoint(ppo_run, one_error):
    shutil.rmtree(ppo_run / "checkpoints")
    assert f"{ppo_run} has no checkpoint yet" in one_error("score", f"--policy={ppo_run}")
