"""What does not belong together is refused, and nothing is written."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.commands.report.tables import (
    FULL,
    make_agent,
    make_folder,
    make_variant,
    row,
    write_table,
)
from ztw_rl.rl.agent import load_agent, save_agent


def damaged(name):
    def damage(pong):
        path = pong / name
        path.write_bytes(path.read_bytes()[:50])
        return f"{path} is damaged"

    return damage


def missing(name):
    def damage(pong):
        (pong / name).unlink()
        return f"{pong / name} is missing; is its folder complete?"

    return damage


def another_games_weights(pong):
    save_agent(pong, make_agent("breakout"))
    return f"{pong}/agent.json plays breakout, but lies in the folder of pong"


def another_action_count(pong):
    save_agent(pong, make_agent("pong", n_actions=4))
    return f"{pong}/agent.json: the agent has 4 actions, but pong has 6"


def weights_that_do_not_fit(pong):
    save_agent(Path("other"), make_agent("breakout"))
    shutil.copy("other/weights.safetensors", pong)
    return f"{pong}/weights.safetensors does not fit {pong}/agent.json"


def another_agents_table(pong):
    agent = make_agent("pong")
    with torch.no_grad():
        agent.model.ics[0].linear.bias.add_(1)
    save_agent(pong, agent)
    return f"{pong}/curve.json was made with other weights than {pong}/weights.safetensors"


def a_variant_without_a_table(pong):
    make_variant(pong, ("input", "conv1"))
    return f"{pong}/input/curve.json is missing; is its folder complete?"


def a_variants_table_of_other_weights(pong):
    make_variant(pong, ("input", "conv1"))
    shutil.copy(pong / "curve.json", pong / "input")
    return (
        f"{pong}/input/curve.json was made with other weights than {pong}/input/weights.safetensors"
    )


def a_variant_of_another_policy(pong):
    agent = make_variant(pong, ("input", "conv1"))
    with torch.no_grad():
        agent.model.head.bias.add_(1)
    save_agent(pong / "input", agent)
    rows = [row("confidence", 0.5, FULL["pong"], 0.5), row("backbone", None, FULL["pong"], 1)]
    identity = asdict(load_agent(pong / "input").identity())
    write_table(pong / "input" / "curve.json", "pong", rows, identity=identity)
    return f"{pong}/input/curve.json was made with other weights than {pong}/weights.safetensors"


def a_variant_of_another_game(pong):
    save_agent(pong / "input", make_agent("breakout"))
    return f"{pong}/input/agent.json plays breakout, but lies in the folder of pong"


def another_games_table(pong):
    shutil.copy(make_folder("breakout") / "curve.json", pong)
    shutil.rmtree("agents/breakout")
    return f"{pong}/curve.json is a table of breakout, not of pong"


def another_policys_method(pong):
    rows = [row("confidence", 0.5, FULL["pong"], 0.5), row("backbone", None, FULL["pong"], 1)]
    identity = {"agent": "a", "policy": "b"}
    write_table(pong / "curve-sdn.json", "pong", rows, method="sdn", identity=identity)
    return f"{pong}/curve-sdn.json was made with other weights"


def a_student_on_other_games(pong):
    rows = [row("student", None, FULL["pong"], 0.4)]
    write_table(
        pong / "curve-student.json", "pong", rows, method="student", student_of="conv1", seed=5
    )
    return f"{pong}/curve-student.json was played from seed 5, and {pong}/curve.json from seed 0"


def another_number_of_a_students_games(pong):
    rows = [row("student", None, FULL["pong"][:5], 0.4)]
    write_table(pong / "curve-student.json", "pong", rows, method="student", student_of="conv1")
    return f"{pong}/curve-student.json needs the games of {pong}/curve.json: 10 greedy ones from"


def the_same_method(pong, **changes):
    """A second table of ztw at another threshold."""
    rows = [
        row("confidence", 0.6, FULL["pong"], 0.4),
        row("backbone", None, FULL["pong"], 1),
    ]
    write_table(pong / "curve-fine.json", "pong", rows, **changes)
    return f"{pong}/curve-fine.json and {pong}/curve.json are both of 'ztw', "


def the_same_method_on_other_games(pong):
    rows = [row("confidence", 0.6, [1, 2], 0.4), row("backbone", None, [1, 2], 1)]
    write_table(pong / "curve-fine.json", "pong", rows)
    return f"{pong}/curve-fine.json and {pong}/curve.json are both of 'ztw', but of other games"


def another_seed(pong):
    the_same_method(pong, seed=5)
    return f"{pong}/curve-fine.json was played from seed 5, and {pong}/curve.json from seed 0, so"


def other_starts(pong):
    the_same_method(pong, evaluation={"action_mode": "greedy", "noop_max": 30})
    return (
        f"{pong}/curve-fine.json was played with noop_max 30, and {pong}/curve.json with 0, so "
        "their games cannot be compared; evaluate again with --noop-max 0"
    )


def the_same_method_of_other_weights(pong):
    identity = {"agent": "0" * 16, "policy": make_agent("pong").identity().policy}
    return the_same_method(pong, identity=identity) + "but of other weights"


def the_same_method_on_another_backend(pong):
    return the_same_method(pong, backend="ONNX Runtime") + "but timed on other backends"


def the_same_setting_twice(pong):
    shutil.copy(pong / "curve.json", pong / "curve-again.json")
    return f"{pong}/curve-again.json and {pong}/curve.json are both of 'ztw', and both hold 0.2 0.5"


def the_same_student_twice(pong):
    for name in ("curve-student.json", "curve-student-2.json"):
        rows = [row("student", None, FULL["pong"], 0.4)]
        write_table(pong / name, "pong", rows, method="student", student_of="conv1")
    return "are both of 'student', and both hold conv1"


def a_poor_backbone(pong):
    rows = [row("confidence", 0.6, [-21] * 4, 0.4), row("backbone", None, [-21] * 4, 1)]
    write_table(pong / "curve.json", "pong", rows)
    return f"{pong}/curve.json: the full model is no better than random play"


def a_single_game(pong):
    rows = [row("confidence", 0.6, [1], 0.4), row("backbone", None, [1], 1)]
    write_table(pong / "curve.json", "pong", rows)
    return f"{pong}/curve.json: two halves need at least two units"


def an_agent_where_its_folder_is_wanted(pong):
    shutil.move(pong, "one")
    shutil.rmtree("agents")
    shutil.move("one", "agents")
    return "agents is an agent; name the folder that holds it: ztw-rl report ."


def nothing_at_all(pong):
    shutil.rmtree("agents")
    return "agents holds no agents; say where they are"


@pytest.mark.parametrize(
    "damage",
    [
        *(missing(name) for name in ("agent.json", "weights.safetensors", "curve.json")),
        *(damaged(name) for name in ("agent.json", "weights.safetensors", "curve.json")),
        another_games_weights,
        another_action_count,
        weights_that_do_not_fit,
        another_agents_table,
        a_variant_without_a_table,
        a_variants_table_of_other_weights,
        a_variant_of_another_policy,
        a_variant_of_another_game,
        another_games_table,
        another_policys_method,
        a_student_on_other_games,
        another_number_of_a_students_games,
        another_seed,
        the_same_method_on_other_games,
        the_same_method_of_other_weights,
        the_same_method_on_another_backend,
        the_same_setting_twice,
        the_same_student_twice,
        a_poor_backbone,
        a_single_game,
        an_agent_where_its_folder_is_wanted,
        nothing_at_all,
    ],
)
def test_what_does_not_belong_together(pong, one_error, damage):
    message = damage(pong)
    assert message in one_error("report", "agents")
    assert not Path("agents/games.csv").exists()


def test_a_folder_that_is_no_agent(pong, one_error):
    # Nobody asks what random play scores in it.
    Path("agents/notes").mkdir()
    assert "agents/notes/agent.json is missing; is its folder complete?" in one_error("report")


def test_a_game_without_a_random_score(pong, one_error):
    Path("envs").mkdir()
    Path("envs/pong.yaml").write_text("{}")
    error = one_error("report")
    assert "the recipe of pong has no random_return" in error
    assert "measure it with: ztw-rl score --random --env pong, and add it to envs/pong" in error


def test_a_place_that_cannot_be_written(pong, one_error):
    Path("taken").write_text("in the way")
    assert "is not a folder" in one_error("report", "--output=taken")
