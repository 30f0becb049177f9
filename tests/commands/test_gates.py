"""Gates on the command line: fitted, evaluated at costs, chosen from, exported, timed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import ztw_rl
from ztw_rl import cli, deploy
from ztw_rl.core.choice import Gate
from ztw_rl.core.deployable import export
from ztw_rl.core.exits import Exceeds, select
from ztw_rl.core.runtime import signals
from ztw_rl.errors import UserError
from ztw_rl.rl import calibrate
from ztw_rl.rl.agent import Agent, build_model, load_agent, save_agent
from ztw_rl.rl.gates import GatePhase
from ztw_rl.rl.journal import Journal
from ztw_rl.rl.tables import load_table

FIT = [
    *["distill-ics", "--device=cpu", "--distill.gate-timesteps=32", "--distill.n-envs=2"],
    *["--distill.n-steps=8", "--distill.engine=eager"],
]
PLAY = ["eval", "--agent=runs/distill/pong-001", "--n-episodes=2", "--n-envs=2", "--device=cpu"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Two games of each candidate."""
    monkeypatch.setattr(calibrate, "N_GAMES", 2)
    monkeypatch.setattr(calibrate, "N_ROUNDS", 1)
    monkeypatch.setattr(calibrate, "N_CORRECTIONS", 1)


def test_gates_come_with_a_distillation(distill_run):
    config = json.loads((distill_run / "agent/agent.json").read_text())
    assert config["gates"] == ["sampled", "greedy"]
    agent = load_agent(distill_run / "agent")
    assert set(agent.model.gates) == {"sampled", "greedy"}
    # A gate that has learnt something differs from one that has not.
    assert agent.model.gates_of("greedy")[0].out.weight.abs().sum() > 0


def test_gates_alone_are_fitted_to_an_agent(distill_run, capfd):
    before = load_agent(distill_run / "agent")
    arguments = [*FIT, "--ics=runs/distill/pong-001", "--distill.gates=greedy", "--seed=3"]
    assert cli.main(arguments) == 0
    assert "distilled over 32 steps: runs/distill/pong-002/agent" in capfd.readouterr().out
    after = load_agent(Path("runs/distill/pong-002/agent"))
    assert after.config.gates == ("greedy",)
    assert after.config.provenance == before.config.provenance
    # Tables of confidence stay valid.
    assert after.identity() == before.identity()
    assert cli.main(["distill-ics", "--resume=runs/distill/pong-002", "--device=cpu"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ics=runs/distill/pong-001", "--policy=x"], "--ics takes an agent as it is"),
        (["--ics=runs/distill/pong-001", "--method=sdn"], "leave out --method"),
        (["--ics=runs/distill/pong-001", "--distill.gates=none"], "fits gates alone"),
        (["--ics=nothing"], "nothing is no policy"),
        (["--ics=runs/distill/pong-001", "--distill.n-epochs=3"], "leave out --distill.n-epochs"),
        (["--distill.gate-timesteps=0"], "gate_timesteps must be at least 1, not 0"),
    ],
)
def test_what_cannot_be_fitted(distill_run, one_error, arguments, message):
    assert message in one_error(*FIT, *arguments)
    assert not Path("runs/distill/pong-002").exists()


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_a_table_at_equal_costs(distill_run, mode, capfd):
    arguments = [*PLAY, "--costs=0.5,0.7", "--output=t", f"--action-mode={mode}"]
    assert cli.main(arguments) == 0
    table = load_table(Path("t/curve.json"))
    rules = " ".join(type(row.who).__name__ for row in table.rows)
    controls = "RandomExits RandomExits Threshold Threshold Forced Forced Forced Full"
    assert rules == f"Gate Gate {controls}"
    assert table.rule == "gate"
    assert len(table.adaptive) == 2
    agent = load_agent(distill_run / "agent")
    assert table.identity == agent.judged("gate", mode).identity()
    assert table.identity.gates is not None
    stored = json.loads(Path("t/curve.json").read_text())
    assert stored["costs"] == [0.5, 0.7]
    assert len(stored["beside"]) == 2
    # A gate's own operations count.
    gated, plain = (agent.judged(rule, mode).relative_macs() for rule in ("gate", "confidence"))
    shares = [stored["rows"][0][f"exit_share_{m}"] for m in range(3)]
    assert stored["rows"][0]["relative_macs"] == pytest.approx(np.dot(shares, gated))
    shares = [stored["rows"][2][f"exit_share_{m}"] for m in range(3)]
    assert stored["rows"][2]["relative_macs"] == pytest.approx(np.dot(shares, plain))
    assert "gate" in capfd.readouterr().out


def test_rows_that_cost_too_much_are_played_again(distill_run, capfd, monkeypatch):
    """Both rules are a hundredth off until they have been corrected twice."""
    monkeypatch.setattr(calibrate, "N_CORRECTIONS", 5)
    rounds = iter([[True, False], [True, True], [False, False]])
    monkeypatch.setattr(calibrate, "to_correct", lambda aim, realised: next(rounds))
    tried = []

    def corrected(threshold, slope, aim, realised):
        tried.append((threshold, aim))
        return threshold + 1e-3

    monkeypatch.setattr(calibrate, "corrected", corrected)
    assert cli.main([*PLAY, "--costs=0.6", "--output=t"]) == 0
    table = load_table(Path("t/curve.json"))
    (gate,) = table.adaptive
    assert [aim for _, aim in tried] == [0.6] * 3
    assert gate.threshold == pytest.approx(tried[0][0] + 2e-3)
    assert json.loads(Path("t/curve.json").read_text())["beside"] == pytest.approx(
        [tried[2][0] + 1e-3]
    )
    assert "gate costs" in capfd.readouterr().err
    # Forced exits, random ones and the full policy are played once.
    assert len(table.rows) == 7


def test_margin(distill_run):
    assert cli.main([*PLAY, "--rule=margin", "--thresholds=0,1", "--output=t"]) == 0
    low, high = load_table(Path("t/curve.json")).adaptive
    # Exits with equal probabilities aside, every margin exceeds 0 and none 1.
    assert low.relative_macs < high.relative_macs
    agent = load_agent(distill_run / "agent")
    assert high.relative_macs == pytest.approx(agent.relative_macs()[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--costs=0.5", "--thresholds=0.5"], "--thresholds and --costs exclude one another"),
        (["--costs=0.1"], "cannot be reached: judged by gate, a decision costs 0.379"),
        (["--costs=1.5"], "and 1.046 at the end"),
        (["--costs=0.5", "--rule=patience"], "cannot be realised by --rule patience"),
        (["--rule=gate"], "--rule gate needs --costs"),
        (["--rule=patience"], "--rule patience needs --thresholds"),
        (["--costs=0.5", "--no-ensembles"], "so leave out --no-ensembles"),
        (["--costs=x"], "costs 'x': 'x' is no number"),
        (["--rule=margin", "--thresholds=2"], "a margin lies between 0 and 1"),
    ],
)
def test_what_cannot_be_evaluated(distill_run, one_error, arguments, message):
    assert message in one_error(*PLAY, *arguments)
    assert not Path("runs/eval").exists()


def test_an_agent_without_gates_says_how_to_get_them(distill_run, one_error):
    bare = replace(load_agent(distill_run / "agent").config, gates=())
    save_agent(distill_run / "agent", Agent(bare, build_model(bare)))
    assert one_error(*PLAY, "--costs=0.5").endswith(
        "the agent has no gates for greedy actions; fit them with: ztw-rl distill-ics --ics "
        "runs/distill/pong-001/agent\n"
    )


def test_from_a_table_to_a_file(distill_run):
    assert cli.main([*PLAY, "--costs=0.5,0.7", "--output=t"]) == 0
    chosen = ["--agent=runs/distill/pong-001", "--budget=0.8", "--calibration=t"]
    assert cli.main(["export", *chosen, "--output=a.zip"]) == 0
    assert deploy.load("a.zip").n_exits == 3
    timed = ["--backends", "eager", "--n-rounds=3", "--batch-sizes", "1"]
    assert cli.main(["bench", *chosen, *timed]) == 0


@pytest.mark.parametrize("threshold", [0.0, -5.0, 5.0])
def test_a_file_leaves_where_the_regret_is_below_its_threshold(distill_run, threshold):
    agent = load_agent(distill_run / "agent")
    point = Gate(threshold)
    export(Path("gate.zip"), agent, "onnx-stages", point, {"name": "x"})
    file = deploy.load("gate.zip")
    assert (file.rule, file.metadata["thresholds"]) == ("gate", [threshold] * 2)
    x = np.random.default_rng(0).integers(0, 256, (9, 4, 84, 84), np.uint8)
    model = agent.at(point).model
    with torch.no_grad():
        pixels = torch.from_numpy(x)
        found = signals(model.answering(), pixels)
        wanted, _ = select(model(pixels), Exceeds.uniform(-threshold, 3), signals=found)
    decision = file.predict(x)
    assert decision.exits.tolist() == wanted.tolist()
    assert file.predict(x[:1]).exits.tolist() == wanted[:1].tolist()
    np.testing.assert_allclose(decision.confidences, np.exp(decision.log_probs.max(1)), rtol=1e-5)


def test_a_stopped_evaluation_goes_on(distill_run, monkeypatch, capfd):
    assert cli.main([*PLAY, "--costs=0.5", "--output=whole"]) == 0
    add = Journal.add

    def stopping(self, game):
        add(self, game)
        if len(self) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "add", stopping)
    assert cli.main([*PLAY, "--costs=0.5", "--output=t"]) == 130
    monkeypatch.setattr(Journal, "add", add)
    assert cli.main(["eval", "--resume", "t"]) == 0
    whole, resumed = (load_table(Path(folder) / "curve.json") for folder in ("whole", "t"))
    assert [row.returns for row in resumed.rows] == [row.returns for row in whole.rows]


def test_a_stopped_fit_goes_on(distill_run, monkeypatch, capfd):
    run = GatePhase.run
    monkeypatch.setattr(GatePhase, "run", lambda *arguments: False)
    assert cli.main([*FIT, "--ics=runs/distill/pong-001"]) == 130
    monkeypatch.setattr(GatePhase, "run", run)
    assert cli.main(["distill-ics", "--resume=runs/distill/pong-002", "--device=cpu"]) == 0
    assert load_agent(Path("runs/distill/pong-002/agent")).config.gates == ("sampled", "greedy")


@pytest.mark.parametrize("threshold", [float("nan"), True, "x", [1]])
def test_thresholds_of_a_file_are_numbers(distill_run, threshold):
    export(
        Path("gate.zip"), load_agent(distill_run / "agent"), "onnx-stages", Gate(0.1), {"name": "x"}
    )
    with pytest.raises(UserError, match="threshold must be a finite number"):
        ztw_rl.load("gate.zip", threshold=threshold)
    assert ztw_rl.load("gate.zip", threshold=-3)
