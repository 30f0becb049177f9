"""``ztw-rl eval --resume``."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ztw_rl import cli
from ztw_rl.rl.agent import Agent, load_agent, save_agent
from ztw_rl.rl.journal import Journal
from ztw_rl.rl.play import Game


@pytest.fixture
def stop_after(monkeypatch):
    """The user presses Ctrl-C once so many games have ended."""

    def stop_after(n: int) -> None:
        add = Journal.add

        def add_and_stop(journal: Journal, game: Game) -> None:
            add(journal, game)
            if len(journal) == n:
                monkeypatch.setattr(Journal, "add", add)
                raise KeyboardInterrupt

        monkeypatch.setattr(Journal, "add", add_and_stop)

    return stop_after


SMALL = ["eval", "--device=cpu", "--n-episodes=2"]
TABLE = [*SMALL, "--thresholds=0.1,0.3", "--n-envs=3", "--disagreement"]


def played(folder: str) -> list[dict[str, object]]:
    """Rows of a table without times, which no two evaluations share."""
    rows = json.loads(Path(folder, "curve.json").read_text())["rows"]
    return [{k: v for k, v in row.items() if "time" not in k} for row in rows]


# In the rule's rows, and when nothing but controls is left.
@pytest.mark.parametrize("n", [3, 13])
def test_a_stopped_evaluation_goes_on_to_the_same_table(
    distill_run, stop_after, capfd, monkeypatch, n
):
    assert cli.main([*TABLE, "--output=whole"]) == 0
    stop_after(n)
    assert cli.main(TABLE) == 130
    again = "ztw-rl eval --resume runs/eval/pong-001"
    assert f"stopped after {n} of 16 games; go on with: {again}" in capfd.readouterr().out
    begun = json.loads(Path("runs/eval/pong-001/games.jsonl").read_text().splitlines()[0])
    assert not Path("runs/eval/pong-001/curve.json").exists()
    # No folder is named: it is the newest one. Only what is missing is played.
    os.utime("runs/eval/pong-001/config.json", (1, 1))
    ended = []
    add = Journal.add
    monkeypatch.setattr(Journal, "add", lambda journal, game: ended.append(add(journal, game)))
    assert cli.main(["eval", "--resume"]) == 0
    assert len(ended) == 16 - n
    assert os.stat("runs/eval/pong-001/config.json").st_mtime > 1
    assert "games: 16 of 16" in capfd.readouterr().out
    assert played("runs/eval/pong-001") == played("whole")
    times = json.loads(Path("runs/eval/pong-001/curve.json").read_text())["rows"][-2]
    relative = begun["times"]["seconds"][-1] / begun["times"]["backbone_seconds"]
    assert times["relative_time"] == pytest.approx(relative)
    assert not Path("runs/eval/pong-001/games.jsonl").exists()


def test_a_stopped_evaluation_in_a_folder_of_ones_own(distill_run, stop_after, one_error, capfd):
    stop_after(1)
    Path("own").mkdir()
    Path("own/config.json").write_text("another's")
    assert cli.main([*TABLE, "--output=own"]) == 130
    error = one_error(*TABLE, "--output=own")
    assert "own/games.jsonl holds the games of an evaluation that was begun before" in error
    # The same command goes on, and another spelling of the thresholds is no other experiment.
    again = [
        "--output=own",
        "--resume",
        "--thresholds=0.1:0.3:0.2",
        "--agent=runs/distill/pong-001",
    ]
    assert cli.main([*TABLE, *again]) == 0
    names = ["config.json", "curve.csv", "curve.json", "curve.png"]
    assert sorted(p.name for p in Path("own").iterdir()) == names
    assert Path("own/config.json").read_text() == "another's"
    assert "own/games.jsonl is missing" in one_error("eval", "--resume", "own")


def test_the_agent_is_looked_for_where_the_user_says(
    distill_run, stop_after, one_error, monkeypatch
):
    stop_after(1)
    assert cli.main(TABLE) == 130
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    again = ["eval", "--resume", "../runs/eval/pong-001"]
    error = one_error(*again)
    assert "there is no runs/distill/pong-001/agent, which ../runs/eval/pong-001 plays" in error
    assert cli.main([*again, "--agent", str(Path("..") / distill_run)]) == 0


def test_an_evaluation_that_goes_on_is_left_alone(distill_run, stop_after, one_error):
    stop_after(1)
    assert cli.main([*TABLE, "--output=own"]) == 130
    with Journal.reopen(Path("own/games.jsonl")):
        error = one_error("eval", "--resume", "own")
    assert "own/games.jsonl is being written: that evaluation is still going on" in error


def test_a_stopped_evaluation_of_a_student(ppo_run, distill, stop_after):
    assert distill("--method=student", "--distill.student-of=conv1") == 0
    stop_after(1)
    assert cli.main(SMALL) == 130
    assert cli.main(["eval", "--resume"]) == 0
    assert len(played("runs/eval/pong-001")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed=1"], "--seed is 0 in own and cannot become 1 midway"),
        (["--n-episodes=3"], "--n-episodes is 2 in own and cannot become 3 midway"),
        (["--noop-max=0"], "--noop-max is 30 in own and cannot become 0 midway"),
        (["--thresholds=0.1"], "--thresholds is 0.1,0.3 in own and cannot become 0.1 midway"),
        (["--threshold=0.1"], "--thresholds"),
        (["elsewhere"], "--resume takes one run folder, not 2"),
    ],
)
def test_what_cannot_change_midway(distill_run, stop_after, one_error, arguments, message):
    stop_after(1)
    assert cli.main([*TABLE, "--output=own"]) == 130
    before = Path("own/games.jsonl").read_bytes()
    assert message in one_error("eval", "--resume", "own", *arguments)
    assert Path("own/games.jsonl").read_bytes() == before


def test_a_journal_that_does_not_tell_its_starts_goes_on_with_equal_ones(
    distill_run, stop_after, one_error
):
    stop_after(1)
    assert cli.main([*TABLE, "--output=own", "--noop-max=0"]) == 130
    head, *games = Path("own/games.jsonl").read_text().splitlines()
    begun = json.loads(head)
    del begun["run"]["evaluation"]["noop_max"]
    Path("own/games.jsonl").write_text("\n".join([json.dumps(begun), *games, ""]))
    error = one_error("eval", "--resume", "own", "--noop-max=30")
    assert "--noop-max is 0 in own and cannot become 30 midway" in error
    assert cli.main(["eval", "--resume", "own"]) == 0
    assert json.loads(Path("own/curve.json").read_text())["evaluation"]["noop_max"] == 0


def other_weights(agent: Agent) -> Agent:
    with torch.no_grad():
        next(agent.model.ics.parameters()).add_(1)
    return agent


def other_games(agent: Agent) -> Agent:
    atari = replace(agent.config.atari, max_frames=200)
    return replace(agent, config=replace(agent.config, atari=atari))


@pytest.mark.parametrize("change", [other_weights, other_games])
def test_games_so_far_are_not_of_another_agent(distill_run, stop_after, one_error, change):
    stop_after(1)
    assert cli.main([*TABLE, "--output=own"]) == 130
    save_agent(distill_run / "agent", change(load_agent(distill_run / "agent")))
    error = one_error("eval", "--resume", "own")
    assert "is no longer the agent that own/games.jsonl was begun with; delete own/" in error


def test_another_agent_is_no_reason_to_delete_games(distill_run, stop_after, one_error):
    stop_after(1)
    assert cli.main([*TABLE, "--output=own"]) == 130
    save_agent(Path("other"), other_weights(load_agent(distill_run / "agent")))
    error = one_error("eval", "--resume", "own", "--agent=other")
    assert f"was begun with {distill_run}/agent, and other is another agent; leave out" in error
    assert Path("own/games.jsonl").exists()


@pytest.mark.parametrize(
    ("head", "message"),
    [("{}", "own/games.jsonl: key 'run' is missing; delete it"), ("", "damaged (its first line")],
)
def test_a_damaged_journal(distill_run, one_error, head, message):
    Path("own").mkdir()
    Path("own/games.jsonl").write_text(head + "\n" * bool(head))
    assert message in one_error("eval", "--resume", "own")


def test_nothing_was_stopped(distill_run, one_error):
    message = "no evaluation was stopped in runs/eval; begin with: ztw-rl eval"
    assert message in one_error("eval", "--resume")
    assert "nowhere/games.jsonl is missing" in one_error("eval", "--resume", "nowhere")
