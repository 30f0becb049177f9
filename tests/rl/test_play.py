"""Rows of games side by side, on games whose length and best return are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ztw_rl.core.backends.eager import eager
from ztw_rl.core.backends.onnx import onnx
from ztw_rl.core.choice import Forced, Patience, Threshold
from ztw_rl.rl.evaluate import play
from ztw_rl.rl.play import NOOP
from ztw_rl.rl.rows import Full, RandomExits, Row

CPU = torch.device("cpu")
N_EPISODES, SEED = 4, 10


def uneven(seed: int) -> int:
    """Short games and long ones, by turns."""
    return 3 if seed % 2 else 41


@pytest.fixture
def model(make_model):
    return make_model(n_ics=2, pixels=True)


@pytest.fixture
def run(patch_games, model):
    """Plays rows; returns the results and the games."""

    def run(rows, n_envs=6, length=uneven, model=model, **settings):
        games = patch_games(n_envs, length=length)
        defaults = {"n_episodes": N_EPISODES, "seed": SEED, "action_mode": "greedy"}
        return play(eager(model), [games], rows, **{**defaults, **settings}, device=CPU), games

    return run


ROWS = [
    Row(Threshold(0.5)),
    Row(Threshold(0.8)),
    Row(Patience(2)),
    Row(Forced(1)),
    Row(RandomExits((0.5, 0.25, 0.25), Threshold(0.5))),
    Row(Full()),
]
SEEDS = [SEED + k for k in range(N_EPISODES)]


@pytest.mark.parametrize("n_envs", [1, 5, 100])
def test_every_row_plays_the_same_seeds_to_the_end(run, n_envs):
    results, games = run(ROWS, n_envs)
    assert sorted(seed for _, seed in games.started[n_envs:]) == sorted(SEEDS * len(ROWS))
    for row, result in zip(ROWS, results, strict=True):
        assert result.row is row
        assert len(result.returns) == N_EPISODES
        assert result.n_decisions == sum(map(uneven, SEEDS))


@pytest.mark.parametrize("mode", ["greedy", "sample"])
def test_the_result_does_not_depend_on_how_many_play_side_by_side(run, mode):
    alone, few, all_at_once = (run(ROWS, n, action_mode=mode)[0] for n in (1, 7, 100))
    assert alone == few == all_at_once
    assert len({result.returns for result in alone}) > 3


def test_a_rows_result_does_not_depend_on_the_other_rows(run):
    together, _ = run(ROWS, action_mode="sample")
    for row, result in zip(ROWS, together, strict=True):
        assert run([row], action_mode="sample")[0] == [result]


def test_short_games_are_not_favoured(run):
    """Taking the first games to end would give the short ones' return only."""
    (result,), _ = run([Row(Full())], n_envs=8, n_episodes=20)
    assert result.n_decisions == 10 * 41 + 10 * 3
    long = [r for seed, r in zip(range(SEED, SEED + 20), result.returns, strict=True) if seed % 2]
    assert max(long) <= 3 < max(result.returns)


def test_returns_are_in_the_order_of_the_seeds(run, make_model):
    model = make_model(n_ics=0, pixels=True)
    (result,), games = run([Row(Full())], n_envs=3, model=model)
    for seed, found in zip(SEEDS, result.returns, strict=True):
        (only,), _ = run([Row(Full())], n_envs=1, model=model, seed=seed, n_episodes=1)
        assert only.returns == (found,)
    assert result.exit_shares == (1.0,)
    assert len(games.sent) > 0


def test_exits_are_drawn_as_numpy_draws_them(run):
    """Tables of old used ``Generator.choice``, and a seed still gives the same exits."""
    shares = (0.25, 0.45, 0.3)
    row = Row(RandomExits(shares, Threshold(0.5)))
    (result,), _ = run([row], length=lambda seed: 30, n_episodes=2)
    for k, exits in enumerate(result.exits):
        rng = np.random.default_rng((SEED, k))
        drawn = [rng.choice(3, p=shares) for _ in range(30)]
        assert exits == tuple(np.bincount(drawn, minlength=3))


def test_all_rows_run_side_by_side(run):
    n = len(ROWS) * N_EPISODES
    _, games = run(ROWS, n_envs=n)
    assert len(games.sent) == 41


def test_an_emulator_without_a_game_waits(run):
    _, games = run([Row(Full())], n_envs=10)
    assert (np.array(games.sent)[:, N_EPISODES:] == NOOP).all()


def test_games_are_reported_as_they_end(run):
    ended = []
    run(ROWS, on_game=ended.append)
    assert len(ended) == len(ROWS) * N_EPISODES
    assert all(game.length == uneven(SEED + game.number) for game in ended)


def test_forced_exits(run):
    results, _ = run([Row(Forced(m)) for m in range(3)])
    assert [r.exit_shares for r in results] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]


def test_the_ends_of_the_scale(run):
    rows = [Row(Threshold(0.0)), Row(Forced(0)), Row(Threshold(1.0)), Row(Full())]
    (zero, first, one, backbone), _ = run(rows)
    assert zero.returns == first.returns
    assert zero.exit_shares == (1, 0, 0)
    assert one.returns == backbone.returns
    assert one.exit_shares == backbone.exit_shares == (0, 0, 1)


def test_each_row_has_its_own_threshold_although_they_share_a_batch(run, model):
    """Replays one game of each row by hand, one decision at a time."""
    rows = [Row(Threshold(t)) for t in (0.4, 0.5, 0.6, 0.7, 0.8)]
    results, games = run(rows, n_envs=5, n_episodes=1)
    assert len({r.exit_shares for r in results}) >= 4
    for row, result in zip(rows, results, strict=True):
        replay = type(games)(1, length=uneven)
        x, points, exits = replay.reset(np.array([SEED])), 0, [0, 0, 0]
        for _ in range(uneven(SEED)):
            with torch.no_grad():
                said = model(torch.from_numpy(x))[0]
            sure = (said[:2].exp().amax(-1) > row.threshold).tolist()
            m = sure.index(True) if any(sure) else 2
            exits[m] += 1
            step = replay.step(said[m].argmax().numpy().reshape(1))
            x, points = step.observations, points + step.rewards[0]
        assert result.returns == (points,)
        assert result.exit_shares == tuple(n / uneven(SEED) for n in exits)


def test_disagreement_with_the_full_model(run, model):
    """Replays each game by hand."""
    rows = [Row(Threshold(t), compared=True) for t in (0.0, 0.6, 1.0)]
    results, games = run([*rows, Row(Threshold(0.6))], n_envs=5)
    assert results[3].disagreement is None
    assert results[3].returns == results[1].returns
    for row, result in zip(rows, results[:3], strict=True):
        for seed, share in zip(SEEDS, result.disagreement, strict=True):
            replay = type(games)(1, length=uneven)
            x, differ = replay.reset(np.array([seed])), 0
            for _ in range(uneven(seed)):
                with torch.no_grad():
                    said = model(torch.from_numpy(x))[0]
                sure = (said[:2].exp().amax(-1) > row.threshold).tolist()
                action = said[sure.index(True) if any(sure) else 2].argmax()
                differ += int(action != said[2].argmax())
                x = replay.step(action.numpy().reshape(1)).observations
            assert share == differ / uneven(seed)
    assert max(results[0].disagreement) > 0
    assert results[2].disagreement == (0,) * N_EPISODES


def test_patience_one_leaves_at_once_and_more_leaves_later(run):
    (one, two, three, four), _ = run([Row(Patience(t)) for t in (1, 2, 3, 4)])
    assert one.exit_shares == (1, 0, 0)
    assert two.exit_shares[0] == 0
    assert 0 < two.exit_shares[1] < 1
    assert three.exit_shares == four.exit_shares == (0, 0, 1)


def test_the_random_control_draws_the_given_shares(run):
    shares = (0.5, 0.2, 0.3)
    (result,), _ = run([Row(RandomExits(shares, Threshold(0.5)))], length=lambda seed: 500)
    n = result.n_decisions
    assert n == 2000
    found, wanted = np.array(result.exit_shares) * n, np.array(shares) * n
    assert stats.chisquare(found, wanted).pvalue > 0.01
    (never,), _ = run([Row(RandomExits((0.5, 0.0, 0.5), Threshold(0.5)))])
    assert never.exit_shares[1] == 0


def test_the_backbones_row_is_the_backbone_whatever_the_ics_say(patch_games, model):
    class Watched(patch_games):
        def send(self, actions):
            with torch.no_grad():
                wanted = model.backbone(torch.from_numpy(self._observations)).argmax(-1)
            assert actions.tolist() == wanted.tolist()
            super().send(actions)

    games = Watched(N_EPISODES, length=lambda seed: 40)
    rows, settings = [Row(Full())], {"n_episodes": N_EPISODES, "seed": SEED}
    play(eager(model), [games], rows, action_mode="greedy", device=CPU, **settings)
    assert len(np.unique(games.sent)) > 1


def test_any_number_of_batches_plays_the_same_games(patch_games, model):
    def played(*sizes):
        batches = [patch_games(n, length=uneven) for n in sizes]
        settings = {"n_episodes": N_EPISODES, "seed": SEED, "action_mode": "sample"}
        return play(eager(model), batches, ROWS, device=CPU, **settings)

    assert played(6) == played(3, 3) == played(1, 4, 9)


def test_onnx_runtime_plays_the_same_games(patch_games, model):
    games = patch_games(6, length=uneven)
    settings = {"n_episodes": N_EPISODES, "seed": SEED, "action_mode": "greedy", "device": CPU}
    x = torch.zeros(1, *games.observation_space.shape, dtype=torch.uint8)
    rows = [*ROWS, Row(Threshold(0.6), compared=True)]
    found = play(onnx(model, x), [games], rows, **settings)
    assert found == play(eager(model), [patch_games(6, length=uneven)], rows, **settings)


def test_sampled_actions_follow_the_probabilities(run, make_model):
    model = make_model(n_ics=1, pixels=True)
    p = torch.tensor([0.6, 0.3, 0.1])
    with torch.no_grad():
        model.head[1].weight.zero_()
        model.head[1].bias.copy_(p.log())
    settings = {"model": model, "n_envs": 4, "length": lambda seed: 500}
    _, games = run([Row(Full())], action_mode="sample", **settings)
    counts = np.bincount(np.concatenate(games.sent), minlength=3)
    assert stats.chisquare(counts, 2000 * p.numpy()).pvalue > 0.01
    _, games = run([Row(Forced(1))], action_mode="greedy", **settings)
    assert (np.concatenate(games.sent) == 0).all()


def test_games_that_are_recalled_are_not_played_again(run):
    (whole,), _ = run([Row(Threshold(0.5))])

    def recall(game):
        if game.number not in (0, 2):
            return False
        game.points, game.exits = -7.0, np.array([1, 0, 0])
        return True

    ended = []
    (result,), _ = run([Row(Threshold(0.5))], recall=recall, on_game=ended.append)
    assert sorted(game.number for game in ended) == [1, 3]
    assert result.exits[::2] == ((1, 0, 0), (1, 0, 0))
    assert result.exits[1::2] == whole.exits[1::2]
    assert (result.returns[0], result.returns[2]) == (-7.0, -7.0)
