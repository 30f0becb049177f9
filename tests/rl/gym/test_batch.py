import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecTransposeImage

from tests.corridor import Corridor
from ztw_rl.errors import UserError
from ztw_rl.rl.gym.batch import GymBatch
from ztw_rl.rl.gym.config import GymConfig
from ztw_rl.rl.gym.wrappers import Screen84
from ztw_rl.rl.vec_env import BatchVecEnv

CORRIDOR = "tests.corridor:Corridor-v0"
PICTURES = "tests.corridor:Pictures-v0"
RIGHT = np.ones(3, np.int64)


@pytest.fixture(params=["sync", "async"])
def batch(request):
    made = GymBatch(GymConfig(CORRIDOR, vectorization=request.param), 3)
    yield made
    made.close()


def starts(seeds):
    cells = []
    for seed in seeds:
        env = Corridor()
        cells.append(env.reset(seed=seed)[0][0])
    return cells


def test_episodes_by_hand(batch):
    first = batch.reset(np.array([0, 1, 2]))
    assert first.dtype == np.float32
    cells = starts([0, 1, 2])
    assert first.tolist() == [[cell, 5] for cell in cells]
    for step in range(1, 5):
        t = batch.step(RIGHT)
        for i, cell in enumerate(cells):
            if step > 4 - cell:
                continue
            over = cell + step == 4
            assert t.ended[i] == over
            assert t.rewards[i] == (10 if over else -1)
            assert t.final_observations[i].tolist() == [cell + step, 5]
            assert batch.episode_frames[i] == (0 if over else step)
            if over:
                # The next episode has begun.
                assert t.observations[i, 0] < 4
        if t.ended.all():
            break


def test_a_learners_rewards_may_be_scaled(batch):
    env = BatchVecEnv(batch, seed=0, reward_scale=0.5)
    env.reset()
    cells = starts([0, 1, 2])
    for step in range(1, 5):
        _, rewards, dones, infos = env.step(RIGHT)
        for i, cell in enumerate(cells):
            if step < 4 - cell:
                assert rewards[i] == -0.5
            if step == 4 - cell:
                assert (rewards[i], dones[i]) == (5, True)
                assert infos[i]["episode"]["r"] == 10 - (step - 1)


def test_only_the_chosen_begin_anew(batch):
    batch.reset(np.array([0, 1, 2]))
    before = batch.step(np.zeros(3, np.int64)).observations
    which = np.array([False, True, False])
    after = batch.reset(np.array([7]), which)
    assert after[1, 0] == starts([7])[0]
    assert (after[~which] == before[~which]).all()
    assert batch.episode_frames.tolist() == [1, 0, 1]


def test_time_that_is_up_is_a_truncation(batch):
    batch.reset(np.array([0, 1, 2]))
    for _ in range(7):
        t = batch.step(np.zeros(3, np.int64))
    assert t.ended.tolist() == t.truncated.tolist() == [True] * 3


def test_wrappers_and_arguments():
    config = GymConfig(CORRIDOR, kwargs={"length": 3}, wrappers=("tests.corridor:Loud",))
    batch = GymBatch(config, 3)
    assert batch.reset(np.arange(3))[:, 1].tolist() == [3, 3, 3]
    rewards = batch.step(RIGHT).rewards
    assert set(rewards.tolist()) <= {-2.0, 20.0}
    batch.close()


@pytest.mark.parametrize(("env_id", "images"), [(CORRIDOR, False), (PICTURES, True)])
@pytest.mark.parametrize("n_stack", [1, 3])
def test_what_is_seen_is_what_sb3s_wrappers_show(env_id, images, n_stack):
    """Through a step that ends an episode, too."""
    stock = DummyVecEnv([lambda: Corridor(length=3, images=images)] * 2)
    stock = VecFrameStack(stock, n_stack) if n_stack > 1 else stock
    stock = VecTransposeImage(stock) if images else stock
    batch = GymBatch(GymConfig(env_id, kwargs={"length": 3}, frame_stack=n_stack), 2)
    stock.seed(0)
    theirs, ours = stock.reset(), batch.reset(np.arange(2))
    assert ours.dtype == (np.uint8 if images else np.float32)
    assert batch.observation_space.shape == ours.shape[1:]
    for _ in range(4):
        assert ours.tolist() == theirs.tolist()
        actions = np.array([1, 0])
        theirs, _, dones, infos = stock.step(actions)
        t = batch.step(actions)
        ours = t.observations
        assert t.ended.tolist() == dones.tolist()
        for i in np.flatnonzero(dones):
            assert (t.final_observations[i] == infos[i]["terminal_observation"]).all()
    batch.close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GymConfig("CartPol-v1"), "there is no environment 'CartPol-v1'; did you mean 'CartPole"),
        (GymConfig("nothing:A-v0"), "environment 'nothing:A-v0' cannot be made: No module named"),
        (GymConfig("Pendulum-v1"), "Pendulum-v1 has actions Box(-2.0, 2.0, (1,), float32); only"),
        (GymConfig("FrozenLake-v1"), "FrozenLake-v1 has observations Discrete(16), but a network"),
        (
            GymConfig(CORRIDOR, kwargs={"width": 3}),
            f"environment '{CORRIDOR}' cannot be made: Corridor.__init__() got an unexpected",
        ),
        (GymConfig(CORRIDOR, wrappers=("Loud",)), "wrapper 'Loud' must be module:Class, such as"),
        (
            GymConfig(CORRIDOR, wrappers=("nothing:Loud",)),
            "wrapper 'nothing:Loud' cannot be imported: No module named 'nothing'",
        ),
        (
            GymConfig(CORRIDOR, wrappers=("tests.corridor:Lout",)),
            "wrapper 'tests.corridor:Lout': tests.corridor has no 'Lout'; did you mean 'Loud'?",
        ),
        (
            GymConfig(CORRIDOR, wrappers=("gymnasium.wrappers:TimeLimit",)),
            f"wrapper 'gymnasium.wrappers:TimeLimit' does not fit {CORRIDOR}: ",
        ),
    ],
)
def test_what_cannot_be_played(config, message):
    with pytest.raises(UserError) as raised:
        GymBatch(config, 1)
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_wrong_actions_are_refused(batch):
    batch.reset(np.arange(3))
    with pytest.raises(ValueError, match="actions must be 0 to 1"):
        batch.send(np.array([0, 1, 2]))


class Screens(gymnasium.Env):
    """Shows a picture and a number; ``pictures`` of them."""

    def __init__(self, pictures=1):
        parts = {f"screen{n}": Box(0, 255, (10, 20, 3), np.uint8) for n in range(pictures)}
        self.observation_space = Dict({**parts, "health": Box(0, 100, (1,))})
        self.action_space = Discrete(2)

    def reset(self, *, seed=None, options=None):
        found = self.observation_space.sample()
        found["screen0"] = np.full((10, 20, 3), [1, 2, 3], np.uint8)
        return found, {}


def test_the_picture_of_a_dict():
    env = Screen84(Screens())
    seen, _ = env.reset()
    assert seen.shape == env.observation_space.shape == (84, 84, 3)
    assert (seen == [1, 2, 3]).all()
    for pictures in (0, 2):
        with pytest.raises(UserError, match="Screen84 needs one picture among the observations"):
            Screen84(Screens(pictures))


def test_gray_pictures_are_images_where_they_are_stacked():
    """As to Stable-Baselines3, to which two dimensions alone are no image."""
    gray = ("gymnasium.wrappers:GrayscaleObservation",)
    for n_stack, shape, dtype in ((1, (120,), np.float32), (2, (2, 12, 10), np.uint8)):
        batch = GymBatch(GymConfig(PICTURES, wrappers=gray, frame_stack=n_stack), 1)
        seen = batch.reset(np.arange(1))
        assert (seen.shape[1:], seen.dtype) == (shape, dtype)
        batch.close()
