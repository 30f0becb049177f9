from __future__ import annotations

import os
from pathlib import Path

import pytest

from ztw_rl import agents
from ztw_rl.errors import UserError

RUNS = Path("runs")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current directory: an empty one, beside a checkout without agents."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(agents, "_CHECKOUT", tmp_path / "checkout" / "agents")
    return tmp_path


def make(path: str) -> Path:
    """An agent's folder, as far as finding it goes."""
    folder = Path(path)
    folder.mkdir(parents=True)
    (folder / "agent.json").write_text("{}")
    return folder


def make_run(number: int, age: int) -> Path:
    """A finished distillation run."""
    run = make(f"runs/distill/pong-{number:03d}/agent").parent
    (run / "config.json").write_text("{}")
    os.utime(run / "config.json", (10_000 - age, 10_000 - age))
    return run


def test_the_newest_run_comes_first_then_the_shipped_agent():
    make("agents/breakout")
    assert agents.find(None, RUNS) == Path("agents/breakout")
    shipped = make("agents/pong")
    assert agents.find(None, RUNS) == shipped
    newer, _ = make_run(1, age=0), make_run(2, age=100)
    assert agents.find(None, RUNS) == newer / "agent"
    assert agents.find(None, Path("elsewhere")) == shipped


def test_a_run_that_is_not_finished_is_no_agent():
    shipped = make("agents/pong")
    run = make_run(1, age=0)
    (run / "agent" / "agent.json").unlink()
    assert agents.find(None, RUNS) == shipped


def test_an_older_finished_run_comes_before_a_newer_unfinished_one():
    make("agents/pong")
    finished, unfinished = make_run(1, age=100), make_run(2, age=0)
    (unfinished / "agent" / "agent.json").unlink()
    assert agents.find(None, RUNS) == finished / "agent"


def test_the_current_directorys_agents_come_before_the_checkouts(folder):
    theirs = make(f"{folder}/checkout/agents/pong")
    assert agents.find("Pong", RUNS) == theirs
    ours = make("agents/pong")
    assert agents.find("pong", RUNS) == ours
    assert agents.shipped() == {"pong": ours}


@pytest.mark.parametrize("name", ["MsPacman", "ms_pacman", "ALE/MsPacman-v5"])
def test_names_in_any_spelling(name):
    made = make("agents/mspacman")
    assert agents.find(name, RUNS) == made


@pytest.mark.parametrize("name", ["pong/low-rate", "Pong/low_rate", "ALE/Pong-v5/lowrate"])
def test_a_variant_is_named_after_its_game(name):
    made = make("agents/pong/low-rate")
    make("agents/pong/input")
    make("agents/pong/.old")
    make("agents/_pong/input")
    assert agents.find(name, RUNS) == made
    assert list(agents.shipped()) == ["pong/input", "pong/low-rate"]
    with pytest.raises(UserError, match="no agent 'pong/output'; did you mean 'pong/input'"):
        agents.find("pong/output", RUNS)


def test_the_default_is_no_variant():
    make("agents/breakout/input")
    shipped = make("agents/pong")
    make("agents/pong/input")
    assert agents.find(None, RUNS) == agents.find("pong", RUNS) == shipped
    assert list(agents.shipped()) == ["breakout/input", "pong", "pong/input"]


def test_folders_of_agents_and_of_runs():
    made, run = make("somewhere/else"), make_run(1, age=0)
    assert agents.find("somewhere/else", RUNS) == made
    assert agents.find(str(run), RUNS) == run / "agent"
    assert agents.find(f"{run}/agent", RUNS) == run / "agent"


def test_a_folder_beats_a_name():
    make("agents/pong")
    here = make("pong")
    assert agents.find("pong", RUNS) == here


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (None, "there is no agent yet; make one with: ztw-rl distill-ics"),
        ("pong", "there is no agent 'pong'; make one with: ztw-rl distill-ics"),
        ("empty", "empty holds no agent.json; is its distillation finished?"),
    ],
)
def test_nothing_to_find(wanted, message):
    Path("empty").mkdir()
    with pytest.raises(UserError) as raised:
        agents.find(wanted, RUNS)
    assert str(raised.value) == message


@pytest.mark.parametrize("path", ["nowhere/pong", "old/Pong-v5", "runs/distill/pong", "/pong"])
def test_a_mistyped_path_is_no_name(path):
    make("agents/pong")
    Path("old/Pong-v5").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"{path}.*(did you mean 'pong'|holds no agent\.json)"):
        agents.find(path, RUNS)


def test_the_former_name_of_an_agent_with_an_exit_at_the_input():
    folder = make("agents/pong")
    (folder / "agent.json").write_text('{"exits": ["input", "conv1", "conv2"]}')
    assert agents.find("Pong/input", RUNS) == folder
    (folder / "agent.json").write_text('{"exits": ["conv1", "conv2"]}')
    with pytest.raises(UserError, match="there is no agent 'Pong/input'"):
        agents.find("Pong/input", RUNS)


def test_an_empty_name_is_no_choice():
    make("agents/pong")
    with pytest.raises(UserError, match="--agent is empty; name an agent, or leave it out"):
        agents.find("", RUNS)


def test_all_names_are_told_if_none_is_near():
    make("agents/pong")
    make("agents/pong/input")
    with pytest.raises(UserError, match=r"no agent 'agents/zzz'; there are pong, pong/input$"):
        agents.find("agents/zzz", RUNS)


def test_a_file_is_no_folder():
    with pytest.raises(UserError, match=r"it is a file; name its folder, agents/pong$"):
        agents.find(str(make("agents/pong") / "agent.json"), RUNS)


@pytest.mark.parametrize("wanted", ["pong/input", "agents/pong/input", "./agents/pong/input"])
def test_shipped_agents_have_a_name_for_files(wanted):
    make("agents/pong/input")
    assert agents.file_stem(agents.find(wanted, RUNS)) == "pong-input"
    assert agents.file_stem(make("elsewhere/pong")) is None


def test_the_nearest_name_is_suggested():
    make("agents/pong")
    make("agents/breakout")
    with pytest.raises(UserError, match=r"there is no agent 'braekout'; did you mean 'breakout'\?"):
        agents.find("braekout", RUNS)


@pytest.mark.parametrize("stored", ["{}", "[]", '{"atari": null}', '{"atari": {}}'])
def test_an_agent_that_names_no_game_is_not_taken_for_a_player_of_pong(stored):
    folder = make("agents/breakout")
    (folder / "agent.json").write_text(stored)
    with pytest.raises(UserError, match=r"agents/breakout/agent.json names no game"):
        agents.stored_environment(folder)


def test_the_game_and_pixels_of_an_agent():
    folder = make("agents/breakout")
    (folder / "agent.json").write_text('{"atari": {"game": "breakout", "pixels": "sb3"}}')
    found = agents.stored_environment(folder)
    assert (found.game, found.pixels) == ("breakout", "sb3")
