"""The learner's batch, and what Stable-Baselines3 expects of it."""

from dataclasses import replace

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy

from ztw_rl.rl.atari.config import AtariConfig
from ztw_rl.rl.atari.vec_env import AtariVecEnv

BREAKOUT = AtariConfig(game="breakout", repeat_action_probability=0.0)


class RandomPolicy:
    """Uniform actions behind SB3's ``predict``."""

    def __init__(self, n_actions: int, seed: int = 0) -> None:
        self._n_actions = n_actions
        self._rng = np.random.default_rng(seed)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self._rng.integers(self._n_actions, size=len(observation)), state


def play(env, n_steps, seed=0):
    """Random actions; yields (observations, rewards, dones, infos)."""
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        yield env.step(rng.integers(env.action_space.n, size=env.num_envs))


@pytest.mark.parametrize("clip", [True, False])
def test_rewards_are_signs_and_raw_points_survive(clip):
    env = AtariVecEnv(AtariConfig(game="air_raid", clip_reward=clip), 4)
    env.reset()
    seen = set()
    for _, rewards, _, infos in play(env, 150):
        raw = np.array([info["raw_reward"] for info in infos])
        np.testing.assert_array_equal(rewards, np.sign(raw) if clip else raw)
        assert rewards.dtype == np.float32
        seen |= set(raw.tolist())
    assert max(seen) > 1


def test_the_sign_of_a_lost_point_is_negative():
    env = AtariVecEnv(AtariConfig(game="pong"), 2)
    env.reset()
    assert min(rewards.min() for _, rewards, _, _ in play(env, 80)) == -1


def test_a_life_is_an_episode_and_a_game_is_what_monitor_reports():
    env = AtariVecEnv(BREAKOUT, 3)
    before = env.reset()
    points, steps, lives = np.zeros(3), np.zeros(3, int), np.full(3, 5)
    games = 0
    for observations, _, dones, infos in play(env, 300):
        points += [info["raw_reward"] for info in infos]
        steps += 1
        for i, info in enumerate(infos):
            last = info["terminal_observation"] if dones[i] else observations[i]
            # No frame is cleared or skipped, after a lost life neither.
            np.testing.assert_array_equal(last[:3], before[i, 1:])
            assert info.get("TimeLimit.truncated", False) is False
            if "episode" in info:
                games += 1
                assert dones[i]
                assert lives[i] == 1
                assert (info["episode"]["r"], info["episode"]["l"]) == (points[i], steps[i])
                assert observations[i, :3].max() == 0
                points[i] = steps[i] = 0
                lives[i] = 5
            else:
                np.testing.assert_array_equal(last, observations[i])
                lives[i] -= dones[i]
            assert info["lives"] == lives[i]
        before = observations
    assert games >= 3


def test_whole_games_can_be_the_episodes():
    env = AtariVecEnv(replace(BREAKOUT, terminal_on_life_loss=False), 2)
    env.reset()
    ends = 0
    for _, _, dones, infos in play(env, 250):
        assert [("episode" in info) for info in infos] == dones.tolist()
        ends += dones.sum()
    assert ends >= 2


def test_evaluate_policy_counts_full_games_in_raw_points():
    env = AtariVecEnv(replace(BREAKOUT, game="qbert"), 2, seed=3)
    returns, lengths = evaluate_policy(
        RandomPolicy(6), env, n_eval_episodes=4, return_episode_rewards=True
    )
    # The same games, played again and counted by hand.
    again = AtariVecEnv(replace(BREAKOUT, game="qbert", terminal_on_life_loss=False), 2, seed=3)
    policy, observations = RandomPolicy(6), again.reset()
    totals, steps, games = np.zeros(2), np.zeros(2, int), [[], []]
    while min(map(len, games)) < 2:
        observations, _, dones, infos = again.step(policy.predict(observations)[0])
        totals += [info["raw_reward"] for info in infos]
        steps += 1
        for i in np.flatnonzero(dones):
            games[i].append((totals[i], steps[i]))
            totals[i] = steps[i] = 0
    expected = [game for played in games for game in played[:2]]
    assert sorted(zip(returns, lengths, strict=True)) == sorted(expected)
    assert max(returns) > 100


def test_the_clock_truncates_a_game():
    env = AtariVecEnv(AtariConfig(game="pong", max_frames=80), 2)
    first = env.reset()
    for step, (observations, _, dones, infos) in enumerate(play(env, 45), start=1):
        assert dones.tolist() == [step % 20 == 0] * 2
        for i in np.flatnonzero(dones):
            assert infos[i]["TimeLimit.truncated"] is True
            assert infos[i]["episode"]["l"] == 20
            assert infos[i]["terminal_observation"][0].max() > 0
            assert observations[i, :3].max() == 0
    assert first.shape == (2, 4, 84, 84)


def trajectory(env, n_steps=60):
    first = env.reset()
    return [first, *(observations for observations, _, _, _ in play(env, n_steps))]


@pytest.mark.parametrize("pixels", ["ale", "sb3"])
def test_a_seed_fixes_the_sticky_actions(pixels):
    config = AtariConfig(game="pong", pixels=pixels)
    once = trajectory(AtariVecEnv(config, 2, seed=11))
    env = AtariVecEnv(config, 2, seed=11)
    np.testing.assert_array_equal(trajectory(env), once)
    assert not np.array_equal(trajectory(env), once), "a second reset repeats the first"
    env.seed(11)
    np.testing.assert_array_equal(trajectory(env), once)
    assert not np.array_equal(trajectory(AtariVecEnv(config, 2, seed=12)), once)
    env.close()


def test_games_of_one_batch_draw_their_own_sticky_actions():
    env = AtariVecEnv(AtariConfig(game="pong"), 2)
    env.reset()
    for _ in range(60):
        observations, *_ = env.step(np.array([2, 2]))
        observations, *_ = env.step(np.array([3, 3]))
    assert not np.array_equal(observations[0], observations[1])


@pytest.mark.parametrize("pixels", ["ale", "sb3"])
def test_any_seed_of_sb3s_will_do(pixels):
    env = AtariVecEnv(AtariConfig(game="pong", pixels=pixels), n_envs=2)
    env.seed(2**32 - 2)
    first = env.reset()
    env.seed(2**31 - 2)
    np.testing.assert_array_equal(first, env.reset())
    env.close()
