from __future__ import annotations

import json
import re
from pathlib import Path

from stable_baselines3 import PPO

from ztw_rl import cli
from ztw_rl.atari.config import AtariConfig
from ztw_rl.atari.vec_env import AtariVecEnv

FEW = ["--n-episodes=3", "--device=cpu"]


def test_the_newest_run_by_default(ppo_run, capsys):
    before = set(Path().rglob("*"))
    assert cli.main(["score", *FEW]) == 0
    out = capsys.readouterr().out
    line = rf"{ppo_run} scores 0\.0 \(95 % interval .*\) in 3 full games of pong, greedy"
    assert re.search(line, out)
    assert "random play scores -20.2\n" in out
    assert "full policies that others trained on pong score 20 to 21\n" in out
    # Also where no bar moves.
    assert "games: 3 of 3" in out
    assert set(Path().rglob("*")) == before


def test_the_games_are_those_of_an_evaluation(distill_run, capsys):
    config = distill_run / "agent" / "agent.json"
    # Long enough for points.
    config.write_text(config.read_text().replace('"max_frames": 100', '"max_frames": 800'))
    assert cli.main(["score", f"--policy={distill_run}", "--seed=4", *FEW]) == 0
    shown = re.search(r"scores (-?[\d.]+) ", capsys.readouterr().out)
    assert cli.main(["eval", "--thresholds=0.5", "--seed=4", "--output=out", *FEW]) == 0
    rows = json.loads(Path("out/curve.json").read_text())["rows"]
    (backbone,) = (row for row in rows if row["rule"] == "backbone")
    assert shown[1] == f"{backbone['return_mean']:.1f}" != "0.0"


def test_an_sb3_zip_plays_on_sb3s_pixels_unless_told_otherwise(folder, capsys, one_error):
    env = AtariVecEnv(AtariConfig(), 2, n_threads=1)
    PPO("CnnPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0).save("mine.zip")
    env.close()
    assert "say which game mine.zip plays" in one_error("score", "--policy=mine.zip")
    short = "--atari.max-frames=100"
    assert cli.main(["score", "--policy=mine.zip", "--env=Pong", short, *FEW]) == 0
    assert "mine.zip scores" in capsys.readouterr().out
    message = one_error("score", "--policy=mine.zip", "--env=Breakout", *FEW)
    assert "the policy has 6 actions, but breakout has 4" in message


def test_what_there_is_not(folder, one_error):
    assert "begin with: ztw-rl train-ppo --env Pong" in one_error("score")
    assert "absent.zip does not exist" in one_error("score", "--policy=absent.zip")


def test_a_policy_says_its_pixels_itself(ppo_run, one_error):
    assert "leave out --atari.* flags" in one_error("score", "--atari.pixels=sb3")
    assert "plays pong, not Breakout" in one_error("score", "--env=Breakout")
