"""The single game: the learner's view, SB3's pixels, rendering."""

from dataclasses import replace

import numpy as np
import pytest
from ale_py.env import AtariEnv
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

from ztw_rl.errors import UserError
from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.env import WrappedEmulators, make_env
from ztw_rl.rl.atari.vec_env import AtariVecEnv

BREAKOUT = AtariConfig(game="breakout", repeat_action_probability=0.0, noop_max=0)


def test_learners_view_equals_the_vec_env():
    config = replace(BREAKOUT, repeat_action_probability=0.1, noop_max=30)
    env, batch = make_env(config, training=True), AtariVecEnv(config, 1, seed=5)
    left, _ = env.reset(seed=5)
    np.testing.assert_array_equal(left, batch.reset()[0])
    rng = np.random.default_rng(0)
    episodes = games = 0
    for _ in range(400):
        action = int(rng.integers(4))
        left, reward, terminated, truncated, info = env.step(action)
        right, rewards, dones, infos = batch.step(np.array([action]))
        assert (reward, terminated, truncated) == (rewards[0], dones[0], False)
        assert info["raw_reward"] == infos[0]["raw_reward"]
        if terminated:
            episodes += 1
            games += not info["life_lost"]
            assert ("episode" in infos[0]) == (not info["life_lost"])
            np.testing.assert_array_equal(left, infos[0]["terminal_observation"])
            left, info = env.reset()
        assert info["lives"] == infos[0]["lives"]
        np.testing.assert_array_equal(left, right[0])
    assert games > 0
    assert episodes > 4 * games


def test_a_lost_life_ends_the_learners_episode_and_not_the_game():
    env = make_env(BREAKOUT, training=True)
    env.reset(seed=0)
    for _ in range(60):
        last, _, terminated, truncated, info = env.step(0)
        if terminated:
            break
    assert terminated
    assert not truncated
    assert info["life_lost"]
    frame = info["episode_frame_number"]
    first, info = env.reset()
    np.testing.assert_array_equal(first, last)
    following, _, _, _, info = env.step(0)
    np.testing.assert_array_equal(following[:3], first[1:])
    assert info["lives"] == 4
    assert info["episode_frame_number"] == frame + 4


def test_a_seed_starts_a_new_game_even_after_a_lost_life():
    env = make_env(BREAKOUT, training=True)
    start, _ = env.reset(seed=0)
    while not env.step(0)[2]:
        pass
    again, info = env.reset(seed=0)
    np.testing.assert_array_equal(again, start)
    assert info["lives"] == 5


def test_without_training_a_life_is_no_episode_and_points_are_raw():
    env = make_env(replace(BREAKOUT, game="qbert"))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    lives_lost, points = 0, []
    while True:
        _, reward, terminated, truncated, info = env.step(int(rng.integers(6)))
        lives_lost += info["life_lost"]
        points.append(reward)
        assert reward == info["raw_reward"]
        if terminated or truncated:
            break
    assert lives_lost >= 2
    assert max(points) >= 25


@pytest.mark.parametrize("noop_max", [0, 30])
def test_sb3_pixels_are_those_of_sb3s_own_wrappers(noop_max):
    """Ms. Pac-Man has no FIRE, so SB3 starts the game as we do."""
    config = AtariConfig(
        game="ms_pacman", pixels="sb3", repeat_action_probability=0.0, noop_max=noop_max
    )

    def stock():
        env = AtariEnv("ms_pacman", frameskip=1, repeat_action_probability=0.0)
        return AtariWrapper(env, noop_max=noop_max, terminal_on_life_loss=False, clip_reward=False)

    ours, theirs = WrappedEmulators(config, 1), VecFrameStack(DummyVecEnv([stock]), 4)
    theirs.seed(4)
    left, right = ours.reset(np.array([4])), theirs.reset()
    rng = np.random.default_rng(0)
    lives_lost = games = 0
    for _ in range(700):
        np.testing.assert_array_equal(left.transpose(0, 2, 3, 1), right)
        actions = rng.integers(9, size=1)
        t = ours.step(actions)
        left = t.observations
        right, rewards, dones, infos = theirs.step(actions)
        assert (t.rewards[0], t.ended[0]) == (rewards[0], dones[0])
        if dones[0]:
            np.testing.assert_array_equal(
                t.final_observations[0].transpose(1, 2, 0), infos[0]["terminal_observation"]
            )
        lives_lost += t.life_lost[0]
        games += t.ended[0]
    assert lives_lost > 0
    assert games > 0


def test_a_game_can_be_rendered():
    env = make_env(BREAKOUT, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (210, 160, 3)


def test_any_spelling_of_a_game_will_do_but_not_an_unknown_game():
    assert make_env(AtariConfig(game="MsPacman")).action_space.n == 9
    with pytest.raises(UserError, match="did you mean"):
        make_env(AtariConfig(game="Breakoot"))
