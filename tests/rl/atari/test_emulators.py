"""The batch of games: against the wrapper chain, and against what the games are known to do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.batches import make_emulators
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.emulators import AtariTransition, Emulators
from ztw_rl.rl.atari.env import WrappedEmulators

CERTAIN = AtariConfig(repeat_action_probability=0.0, noop_max=0)
VARIED = replace(CERTAIN, noop_max=30)


def random_play(batch, n_steps, seed=0):
    """Yield the transitions of uniformly random actions."""
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        yield batch.step(rng.integers(batch.action_space.n, size=batch.n_envs))


def assert_same(fast: AtariTransition, reference: AtariTransition, step: int) -> None:
    for name in AtariTransition._fields:
        left, right = getattr(fast, name), getattr(reference, name)
        np.testing.assert_array_equal(left, right, err_msg=f"{name} at step {step}")
        assert left.dtype == right.dtype, name


@pytest.mark.parametrize(
    ("game", "max_frames", "lives_are_lost", "sticky"),
    [
        # A game of Pong outlasts the test, so the clock ends it.
        ("pong", 1001, False, 0.0),
        ("breakout", 108_000, True, 0.0),
        ("air_raid", 108_000, False, 0.0),
        ("qbert", 108_000, True, 0.1),
    ],
)
def test_batch_equals_the_wrapper_chain(game, max_frames, lives_are_lost, sticky):
    config = AtariConfig(game=game, max_frames=max_frames, repeat_action_probability=sticky)
    fast, reference = Emulators(config, 2), WrappedEmulators(config, 2)
    seeds = np.array([3, 7])
    np.testing.assert_array_equal(fast.reset(seeds), reference.reset(seeds))
    plays = zip(random_play(fast, 500), random_play(reference, 500), strict=True)
    lives_lost = games = 0
    for step, (left, right) in enumerate(plays):
        assert_same(left, right, step)
        lives_lost += left.life_lost.sum()
        games += left.ended.sum()
    assert games > 0
    assert (lives_lost > 0) == lives_are_lost


@pytest.mark.parametrize("sticky", [0.0, 0.1])
@pytest.mark.parametrize("game", ["pong", "breakout", "seaquest", "air_raid", "ms_pacman"])
def test_starts_equal_the_wrapper_chains(game, sticky):
    """A first start from a seed, and a second one after the clock has ended the first game."""
    config = AtariConfig(game=game, max_frames=80, repeat_action_probability=sticky)
    fast, reference = Emulators(config, 12), WrappedEmulators(config, 12)
    seeds = np.arange(12)
    np.testing.assert_array_equal(fast.reset(seeds), reference.reset(seeds))
    starts = fast.episode_frames.copy()
    assert len(set(starts)) > 6
    plays = zip(random_play(fast, 30), random_play(reference, 30), strict=True)
    for step, (left, right) in enumerate(plays):
        assert_same(left, right, step)
        np.testing.assert_array_equal(fast.episode_frames, reference.episode_frames)
        if left.ended.all():
            second = fast.episode_frames.copy()
    assert (second != starts).any()


@pytest.mark.parametrize("max_frames", [20, 28, 41])
def test_games_shorter_than_a_start_are_counted(max_frames):
    """The next game may begin at a later frame than the last one ended at."""
    config = AtariConfig(max_frames=max_frames)
    fast, reference = Emulators(config, 4), WrappedEmulators(config, 4)
    fast.reset(np.arange(4))
    reference.reset(np.arange(4))
    plays = zip(random_play(fast, 60), random_play(reference, 60), strict=True)
    games = 0
    for step, (left, right) in enumerate(plays):
        assert_same(left, right, step)
        games += left.ended.sum()
    assert games > 16


@pytest.mark.parametrize(
    ("game", "noop_max", "starts"),
    [
        # FIRE takes a frame in any case.
        ("pong", 7, {1, 2, 3, 4, 5, 6}),
        ("pong", 1, {1}),
        ("pong", 0, {1}),
        ("ms_pacman", 7, {0, 1, 2, 3, 4, 5, 6}),
        ("ms_pacman", 0, {0}),
    ],
)
def test_a_game_begins_after_fewer_frames_than_noop_max(game, noop_max, starts):
    batch = Emulators(replace(CERTAIN, game=game, noop_max=noop_max), 64)
    batch.reset(np.arange(64))
    assert set(batch.episode_frames) == starts


@pytest.mark.parametrize("pixels", ["ale", "sb3"])
def test_a_games_start_is_its_seeds(pixels):
    batch = make_emulators(replace(VARIED, pixels=pixels), 4)
    batch.reset(np.arange(4))
    starts = batch.episode_frames.copy()
    batch.reset(np.array([3]), np.array([True, False, False, False]))
    np.testing.assert_array_equal(batch.episode_frames, starts[[3, 1, 2, 3]])


def test_starts_differ_by_no_op_frames_alone():
    """Frames of two starts are the same film, entered at different moments."""
    once = replace(VARIED, frame_skip=1)
    batch = Emulators(once, 12)
    batch.reset(np.arange(12))
    starts = batch.episode_frames.copy()
    film = {}
    for t in range(40):
        seen = batch.step(np.zeros(12, int)).observations[:, -1]
        for moment, frame in zip((starts + t).tolist(), seen, strict=True):
            np.testing.assert_array_equal(frame, film.setdefault(moment, frame))


def test_one_game_is_restarted_and_the_others_are_left_alone():
    config = replace(CERTAIN, game="breakout", repeat_action_probability=0.1)
    fast, reference = Emulators(config, 3), WrappedEmulators(config, 3)
    firsts = fast.reset(np.arange(3))
    reference.reset(np.arange(3))
    for before, other in zip(random_play(fast, 60), random_play(reference, 60), strict=True):
        assert_same(before, other, 0)
    which, seed = np.array([False, True, False]), np.array([1])
    after = fast.reset(seed, which)
    np.testing.assert_array_equal(after, reference.reset(seed, which))
    np.testing.assert_array_equal(after[1], firsts[1])
    np.testing.assert_array_equal(after[[0, 2]], before.observations[[0, 2]])
    for left, right in zip(random_play(fast, 200, 1), random_play(reference, 200, 1), strict=True):
        assert_same(left, right, 0)


def test_a_game_begins_with_black_frames_below_its_first():
    observations = Emulators(CERTAIN, 1).reset(np.array([0]))
    assert observations[:, :3].max() == 0
    assert observations[:, 3].max() > 0


def test_frames_are_not_overwritten_by_later_steps():
    batch = Emulators(CERTAIN, 2)
    batch.reset(np.arange(2))
    kept = [t.observations for t in random_play(batch, 3)]
    copies = [k.copy() for k in kept]
    list(random_play(batch, 10))
    np.testing.assert_array_equal(kept, copies)


def test_a_game_of_pong_ends_at_21_points():
    batch = Emulators(replace(CERTAIN, frame_skip=8), 2)
    batch.reset(np.arange(2))
    points = np.zeros((2, 2), int)
    games = 0
    for t in random_play(batch, 800):
        points[:, 0] += t.rewards > 0
        points[:, 1] += t.rewards < 0
        np.testing.assert_array_equal(t.ended, points.max(axis=1) == 21)
        assert not t.life_lost.any()
        assert not t.truncated.any()
        assert not t.lives.any()
        games += t.ended.sum()
        points[t.ended] = 0
    assert games >= 2


def test_game_over_is_seen_where_lives_stay_at_one():
    batch = Emulators(replace(CERTAIN, game="air_raid"), 4)
    starts = batch.reset(np.arange(4))
    before, games = starts, 0
    for t in random_play(batch, 900):
        assert (t.lives == 1).all()
        assert not t.life_lost.any()
        goes_on = (t.observations[:, :3] == before[:, 1:]).all(axis=(1, 2, 3))
        np.testing.assert_array_equal(t.ended, ~goes_on)
        np.testing.assert_array_equal(t.observations[~goes_on], starts[~goes_on])
        np.testing.assert_array_equal(t.final_observations[:, :3], before[:, 1:])
        before = t.observations
        games += t.ended.sum()
        if games == 2:
            break
    assert games == 2


@pytest.mark.parametrize("pixels", ["ale", "sb3"])
def test_fire_is_pressed_after_a_lost_life(pixels):
    """Nobody presses FIRE here, so without help the second ball would never come."""
    batch = make_emulators(replace(CERTAIN, game="breakout", pixels=pixels), 1)
    batch.reset(np.array([0]))
    lives = []
    for _ in range(200):
        t = batch.step(np.array([0]))
        if t.life_lost[0]:
            lives.append(int(t.lives[0]))
        if t.ended[0]:
            break
    assert t.ended[0]
    assert lives == [4, 3, 2, 1]


def test_fire_takes_the_place_of_one_action_of_one_game():
    """A twin that gets FIRE from the agent, and only there, plays the same game."""
    config = replace(CERTAIN, game="breakout")
    helped, twin = Emulators(config, 2), Emulators(config, 2)
    twin._fires = False
    helped.reset(np.arange(2))
    twin.reset(np.arange(2))
    rng = np.random.default_rng(1)
    lost, losses = np.zeros(2, bool), 0
    for _ in range(200):
        actions = rng.integers(4, size=2)
        left = helped.step(actions)
        actions[lost] = 1
        right = twin.step(actions)
        np.testing.assert_array_equal(left.observations, right.observations)
        lost = left.life_lost
        losses += lost.sum()
    assert losses > 2


def share_never_executed(frame_skip: int, sticky: float, rounds: int) -> float:
    """Share of single steps RIGHT, amid no-ops, that leave no trace on the screen.

    The game in each pair that only gets no-ops draws the same random numbers, so the two differ
    if and only if RIGHT was executed on some frame.
    """
    pairs = 2
    batch = Emulators(
        AtariConfig(game="pong", frame_skip=frame_skip, repeat_action_probability=sticky),
        2 * pairs,
    )
    batch.reset(np.tile(np.arange(pairs), 2))
    noop = np.zeros(2 * pairs, int)
    right = np.repeat([2, 0], pairs)
    unseen = 0
    for _ in range(rounds):
        for actions in (noop, right, noop, noop, noop, noop):
            frames = batch.step(actions).observations
        unseen += (frames[:pairs] == frames[pairs:]).all(axis=(1, 2, 3)).sum()
        batch.reset(np.full(2 * pairs, -1))
    return unseen / (pairs * rounds)


def test_sticky_actions_repeat_with_their_probability_on_every_frame():
    assert share_never_executed(frame_skip=1, sticky=0.0, rounds=10) == 0
    # 280 draws: the standard deviation is 0.018.
    assert share_never_executed(frame_skip=1, sticky=0.1, rounds=140) == pytest.approx(
        0.1, abs=0.05
    )
    # 0.1 ** 4 if each frame draws anew, 0.1 if a step drew only once.
    assert share_never_executed(frame_skip=4, sticky=0.1, rounds=40) < 0.02


@pytest.mark.parametrize("pixels", ["ale", "sb3"])
@pytest.mark.parametrize("actions", [[0, 6], [-1, 0], [0]])
def test_an_action_that_does_not_exist_is_an_error_and_not_a_hang(pixels, actions):
    batch = make_emulators(replace(CERTAIN, pixels=pixels), 2)
    batch.reset(np.arange(2))
    with pytest.raises(ValueError, match="action"):
        batch.send(np.array(actions))


@pytest.mark.parametrize("pixels", ["ale", "sb3"])
def test_an_unknown_game_is_named(pixels):
    with pytest.raises(UserError, match="pongg"):
        make_emulators(AtariConfig(game="pongg", pixels=pixels), 1)


def test_the_recipe_chooses_the_pixels():
    ours, theirs = (
        make_emulators(replace(CERTAIN, game="air_raid", pixels=p), 1) for p in ("ale", "sb3")
    )
    assert isinstance(ours, Emulators)
    assert isinstance(theirs, WrappedEmulators)
    left, right = ours.reset(np.array([0])), theirs.reset(np.array([0]))
    assert np.abs(left.astype(int) - right).mean() > 1
    assert (ours.observation_space, ours.action_space) == (
        theirs.observation_space,
        theirs.action_space,
    )
    with pytest.raises(ValueError, match="ale"):
        Emulators(replace(CERTAIN, pixels="sb3"), 1)
