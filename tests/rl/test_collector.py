"""What is collected for distillation: who acted, and what the teacher said of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from tests.networks import early_exit_nature_cnn
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.emulators import Emulators
from ztw_rl.rl.collector import Collector, choose

CPU = torch.device("cpu")
N_ENVS, N_STEPS = 8, 96


def collector(model, emulators, **settings):
    defaults = {"n_steps": N_STEPS, "behaviour": "ics", "action_modes": ["greedy"], "seed": 0}
    return Collector(model, emulators, **{**defaults, **settings}, device=CPU)


@pytest.fixture
def games(patch_games):
    return patch_games(N_ENVS, n_actions=6)


@pytest.fixture
def model(make_model):
    return make_model(n_ics=2, n_classes=6, pixels=True)


def wishes(alone):
    """In environment i, IC m wants action (i + 3·m) mod 6, whatever it said."""
    n_envs, n_ics, _ = alone.shape
    wanted = (torch.arange(n_envs).unsqueeze(1) + 3 * torch.arange(n_ics)) % 6
    return torch.nn.functional.one_hot(wanted, 6).float().log()


def test_each_environment_acts_by_its_own_ic(model, games):
    found = collector(model, games).collect(wishes)
    environment = torch.arange(N_ENVS).repeat(N_STEPS)
    assert torch.equal(found.actions, (environment + 3 * found.behaviours) % 6)
    # What was kept is what was done.
    assert torch.equal(found.actions, torch.from_numpy(np.concatenate(games.sent)))
    # One draw or one action for all, as in the published code, would make every column equal.
    drawn = found.behaviours.view(N_STEPS, N_ENVS)
    assert (drawn != drawn[:, :1]).any(dim=1).float().mean() > 0.9


@pytest.mark.parametrize(("behaviour", "n"), [("ics", 2), ("all", 3)])
def test_draws_are_uniform_and_independent(model, games, behaviour, n):
    found = collector(model, games, behaviour=behaviour).collect(lambda alone: alone)
    drawn = found.behaviours.view(N_STEPS, N_ENVS).numpy()
    assert stats.chisquare(np.bincount(drawn.ravel(), minlength=n)).pvalue > 0.01
    assert drawn.max() == n - 1
    neighbours = np.bincount((n * drawn[:, :-1] + drawn[:, 1:]).ravel(), minlength=n * n)
    successors = np.bincount((n * drawn[:-1] + drawn[1:]).ravel(), minlength=n * n)
    assert stats.chisquare(neighbours).pvalue > 0.01
    assert stats.chisquare(successors).pvalue > 0.01


def test_the_head_acts_for_itself_where_it_may(model, games):
    found = collector(model, games, behaviour="all").collect(wishes)
    head = found.behaviours == 2
    assert torch.equal(found.actions[head], found.teacher_actions[head])
    environment = torch.arange(N_ENVS).repeat(N_STEPS)
    assert torch.equal(found.actions[~head], ((environment + 3 * found.behaviours) % 6)[~head])


def test_the_answers_are_the_teachers(model, games):
    found = collector(model, games).collect(wishes)
    assert len(found) == N_ENVS * N_STEPS
    with torch.no_grad():
        wanted = torch.log_softmax(model.backbone(found.observations), -1)
    torch.testing.assert_close(found.teacher_log_probs, wanted)
    assert torch.equal(found.teacher_actions, wanted.argmax(-1))
    assert len(found.teacher_actions.unique()) > 1
    assert not torch.equal(found.teacher_actions, found.actions)


def test_what_is_kept_of_the_ics_is_what_they_would_say_again(model, games):
    found = collector(model, games).collect(
        wishes, reads=lambda ics: tuple(ic.features for ic in ics)
    )
    with torch.no_grad():
        read = [exit.features for exit in model.exits(found.observations)]
        alone = model.alone(found.observations)[:, :-1]
    torch.testing.assert_close(found.ic_log_probs, alone)
    assert len(found.reads) == 2
    for kept, wanted in zip(found.reads, read, strict=False):
        torch.testing.assert_close(kept, wanted)
        assert not kept.requires_grad


def test_what_is_done_meanwhile_is_done_while_the_emulators_work(model, patch_games):
    events = []

    class Watched(patch_games):
        def send(self, actions):
            super().send(actions)
            events.append("send")

        def receive(self):
            events.append("receive")
            return super().receive()

    games = Watched(N_ENVS, n_actions=6)
    collector(model, games, n_steps=4).collect(wishes, meanwhile=events.append)
    assert events == [e for k in range(1, 5) for e in ("send", k / 4, "receive")]


def test_ics_act_with_the_weights_they_have(model, games):
    """What changes them meanwhile is seen from the next step on."""

    def change(share):
        model.ics[0].linear.bias[0] += 100.0

    found = collector(model, games, n_steps=2).collect(lambda alone: alone, meanwhile=change)
    first, second = found.ic_log_probs.view(2, N_ENVS, 2, 6)
    assert (first[:, 0, 0].exp() < 0.99).all()
    assert (second[:, 0, 0].exp() > 0.99).all()


def test_on_the_real_game_the_kept_pictures_are_those_that_were_seen():
    config = AtariConfig(game="breakout")
    torch.manual_seed(0)
    model = early_exit_nature_cnn(4).eval()
    emulators, replay = Emulators(config, 2), Emulators(config, 2)
    found = collector(model, emulators, n_steps=40, seed=5).collect(
        lambda alone: alone, lambda ics: tuple(ic.features for ic in ics)
    )
    seen = [replay.reset(np.array([5, 6]))]
    seen += [replay.step(a).observations for a in found.actions.view(40, 2)[:-1].numpy()]
    assert torch.equal(found.observations, torch.from_numpy(np.concatenate(seen)))
    with torch.no_grad():
        read = [exit.features for exit in model.exits(found.observations)]
    for m in range(2):
        torch.testing.assert_close(found.reads[m], read[m])


def test_the_next_call_goes_on_where_the_last_one_stopped(model, patch_games):
    once = patch_games(N_ENVS, n_actions=6)
    whole = collector(model, once, n_steps=40).collect(wishes)
    games = patch_games(N_ENVS, n_actions=6)
    halves = collector(model, games, n_steps=20)
    first, second = halves.collect(wishes), halves.collect(wishes)
    assert torch.equal(whole.observations, torch.cat([first.observations, second.observations]))
    assert torch.equal(whole.actions, torch.cat([first.actions, second.actions]))
    assert games.started == [(i, i) for i in range(N_ENVS)]


def test_returns_are_of_full_games_across_calls(model, patch_games):
    games = patch_games(N_ENVS, n_actions=6, length=lambda seed: 25)
    halves = collector(model, games, n_steps=15)
    assert halves.collect(wishes).returns == []
    returns = halves.collect(wishes).returns
    assert len(returns) == N_ENVS
    again = patch_games(N_ENVS, n_actions=6, length=lambda seed: 25)
    again.reset(np.arange(N_ENVS))
    points = [again.step(a).rewards for a in games.sent[:25]]
    assert returns == np.sum(points, axis=0).tolist()
    assert sum(returns) > 0


@pytest.mark.parametrize("shape", [(), (2,)])
def test_samples_follow_the_probabilities(shape):
    p = torch.tensor([0.1, 0.2, 0.0, 0.7])
    log_probs = p.log().expand(6000, *shape, 4)
    chosen = choose(log_probs, "sample", torch.Generator().manual_seed(0))
    assert chosen.shape == (6000, *shape)
    for column in chosen.view(6000, -1).T:
        counts = np.bincount(column.numpy(), minlength=4)
        assert counts[2] == 0
        assert stats.chisquare(counts[[0, 1, 3]], 6000 * p[[0, 1, 3]].numpy()).pvalue > 0.01
    assert (choose(log_probs, "greedy", torch.Generator()) == 3).all()


def test_the_least_random_number_is_not_infinite_noise(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **how: torch.zeros(shape))
    # All noise is equal, so the likeliest wins.
    log_probs = torch.tensor([[-30.0, -1e-3, -7.0]])
    assert choose(log_probs, "sample", torch.Generator()).tolist() == [1]


def test_sampling_also_reaches_the_actions(model, games):
    def even(alone):
        return torch.full_like(alone, 1 / 6).log()

    found = collector(model, games, action_modes=["sample"]).collect(even)
    assert stats.chisquare(np.bincount(found.actions.numpy(), minlength=6)).pvalue > 0.01
    greedy = found.teacher_log_probs.argmax(-1)
    assert not torch.equal(found.teacher_actions, greedy)
