"""Settings of the pipeline of policies.

The dataclasses are recipe sections (``ppo: {n_envs: 8}``) and command-line flags
(``--ppo.n-envs 8``) at once, so this module imports nothing heavy: ``--help`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ztw_rl.core.backends.names import BackendName
from ztw_rl.decision import Rule
from ztw_rl.rl.atari.config import LONGEST_START
from ztw_rl.rl.environments import InEnvironment
from ztw_rl.rl.networks.config import (
    IMPALA_WIDTHS,
    NATURE_WIDTHS,
    Activation,
    NetworkConfig,
    PixelHead,
    Widths,
)
from ztw_rl.settings import (
    AtLeastZero,
    Count,
    Positive,
    Range,
    Ranged,
    Seed,
    Share,
    added,
    require,
    require_schedule,
)

Schedule = Literal["constant", "linear"]
NetworkName = Literal["nature", "impala", "impala-wide", "mlp"]
TRUNK_WIDTHS: dict[NetworkName, Widths] = {
    "nature": NATURE_WIDTHS,
    "impala": IMPALA_WIDTHS,
    "impala-wide": (*(2 * width for width in IMPALA_WIDTHS[:-1]), IMPALA_WIDTHS[-1]),
    "mlp": (),
}
Precision = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class PPOConfig(Ranged):
    """PPO, in the spelling of Stable-Baselines3."""

    n_timesteps: Count = 10_000_000
    """Environment steps in total, over all environments; one step is ``frame_skip`` frames."""
    n_envs: Count = 8
    """Games played side by side."""
    n_steps: Count = 128
    """Steps per environment between two updates."""
    batch_size: Annotated[int, Range(2)] = 256
    """Minibatch size: two or more, since advantages are divided by their standard deviation."""
    n_epochs: Count = 4
    """Passes over each rollout."""
    learning_rate: Positive = 2.5e-4
    """Adam's learning rate, at the start if it is scheduled."""
    clip_range: Positive = 0.1
    """Clipping of the probability ratio, at the start if it is scheduled."""
    schedule: Schedule = "constant"
    """What learning rate and clip range do over ``n_timesteps``: stay, or fall to 0."""
    ent_coef: AtLeastZero = 0.01
    """Weight of the entropy bonus."""
    vf_coef: AtLeastZero = 0.5
    """Weight of the value loss."""
    gamma: Share = 0.99
    """Discount factor."""
    gae_lambda: Share = 0.95
    """Bias-variance trade-off of generalised advantage estimation."""
    max_grad_norm: Positive = 0.5
    """Gradient clipping."""
    reward_scale: Positive = 1.0
    """What is learnt from is each reward times this, such as 0.01 where returns are hundreds and
    images share a trunk with the values; scores stay as they are."""
    network: NetworkName | None = None
    """nature; impala: 15 convolutions (Espeholt et al., 2018), impala-wide: twice as wide; mlp.
    By default nature for images and mlp for vectors."""
    net_arch: tuple[int, ...] | None = None
    """Hidden layers between trunk and head; by default none behind a CNN, two of 64 of an mlp."""
    activation: Activation | None = None
    """Behind each hidden layer; by default tanh, as in Stable-Baselines3."""
    precision: Precision = "float32"
    """Arithmetic of the convolutional trunk. ``tf32`` is PyTorch's default on a CUDA device, and so
    Stable-Baselines3's; elsewhere it is ``float32``. ``bfloat16`` pays where the processor has it
    (AMX, tensor cores). Weights, heads, losses and the optimiser are float32 in any case."""
    compiled: bool = False
    """Learn from minibatches through torch.compile, which takes some seconds at the start and a
    C++ compiler, on CUDA Triton."""
    checkpoint_interval: Count = 100_000
    """Environment steps between two checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        rollout = self.n_envs * self.n_steps
        require(
            self,
            self.batch_size <= rollout,
            "batch_size",
            f"at most one rollout, n_envs * n_steps = {rollout}",
        )

    def network_for(self, input_shape: tuple[int, ...]) -> NetworkConfig:
        """The policy's layers.

        Args:
            input_shape: Of one observation, (C, H, W) or (D,).

        Raises:
            UserError: Such a network does not read such observations.
        """
        name = self.network or ("nature" if len(input_shape) == 3 else "mlp")
        is_mlp = name == "mlp"
        # An MlpPolicy's default, and a CnnPolicy's.
        hidden = ((64, 64) if is_mlp else ()) if self.net_arch is None else self.net_arch
        return NetworkConfig(
            input_shape=input_shape,
            trunk="impala" if name == "impala-wide" else name,
            widths=TRUNK_WIDTHS[name],
            hidden=hidden,
            activation=(self.activation or "tanh") if hidden else "relu",
        )


@dataclass(frozen=True)
class PPORun(InEnvironment):
    """All settings of a PPO run: its ``config.json``."""

    seed: Seed
    """Of games, initial weights, action noise and minibatches."""
    ppo: PPOConfig
    """Training."""
    init: str | None = None
    """File of the weights it began with, in place of random ones."""


@dataclass(frozen=True)
class RecentGame:
    """A full game that ended, under the names that Stable-Baselines3 averages."""

    r: float
    """Raw points."""
    l: int  # noqa: E741
    """Decisions."""
    t: float
    """Seconds since the session began."""


@dataclass(frozen=True)
class PPOState:
    """Where a PPO run stands: a checkpoint's ``state.json``."""

    n_timesteps: int
    """Environment steps learnt from."""
    n_updates: int
    """Passes over a rollout."""
    recent_games: tuple[RecentGame, ...] = ()
    """The last hundred."""


MethodName = Literal["ztw", "sdn", "cascade", "ensemble", "student"]
ActionMode = Literal["greedy", "sample"]
EngineName = Literal["fastest", "eager"]
"""What runs a frozen network; see ``rl.trunk``."""
Behaviour = Literal["ics", "all"]
GateName = Literal["sampled", "greedy"]
GATE_TIMESTEPS = 200_000


def gate_for(mode: ActionMode) -> GateName:
    """The gates that serve an action mode."""
    return "sampled" if mode == "sample" else "greedy"


@dataclass(frozen=True)
class DistillConfig(Ranged):
    """Behavioural cloning of a policy into its internal classifiers (ICs)."""

    method: MethodName = "ztw"
    """Parts of the model: cascade and geometric ensemble, neither (sdn), or one of them. student is
    the control: no early exit, but a narrower network of as many operations as one exit."""
    exits: tuple[str, ...] | None = None
    """Where the ICs hang: of a NatureCNN some of input, conv1, conv2 (these two by default), conv3;
    of an IMPALA-CNN input, stage1, stage2, stage3; of an mlp input, layer1, ..."""
    pixel_head: PixelHead = "windows"
    """The IC at the input, if there is one on images: it looks first in windows of 8x8 that
    overlap, or in patches of 4x4, which takes less time."""
    n_timesteps: Count = 1_000_000
    """Environment steps of each phase but the gates': first the ICs, then the ensembles. A student
    has a single phase; give it twice as many for what ICs and ensembles get together."""
    n_envs: Count = 8
    """Games played side by side."""
    n_steps: Count = 128
    """Steps per environment between two updates."""
    n_epochs: Count = 5
    """Passes over what was collected."""
    ic_batch_size: Count = 64
    """Minibatch size of the phase that fits the ICs."""
    ensemble_batch_size: Count = 128
    """Minibatch size of the phase that fits the ensembles."""
    learning_rates: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    """Adam's learning rates, one after another; a student has ``pixel_learning_rates`` only."""
    pixel_learning_rates: tuple[float, ...] = (1e-3, 1e-3, 1e-4)
    """In their place for what reads the pixels themselves, a student or an IC on the input: all of
    its layers have to learn, where other ICs get features that are learnt already."""
    milestones: tuple[float, ...] = (0.1, 0.75)
    """Shares of a phase after which the next learning rate takes over."""
    student_of: str = "conv1"
    """student only: the exit, one of ``exits``, whose operations it matches."""
    behaviour: Behaviour = "ics"
    """Who may act: the ICs (or the student) only, or the policy's own head as well."""
    action_mode: ActionMode = "greedy"
    """Whether actions are the likeliest or sampled."""
    gates: Literal["both", "sampled", "greedy", "none"] = added("both", before="none")
    """Gates that predict what leaving at an exit costs, for sampled and for greedy actions; a
    student has none."""
    gate_timesteps: Annotated[int | None, Range(1)] = None
    """Environment steps that the gates learn from; by default 200,000, or ``n_timesteps`` if that
    is less."""
    engine: EngineName = added("fastest", before="eager")
    """What runs the frozen network: fastest is LiteRT on a CPU, where it is installed and answers
    alike within 1e-4, else PyTorch. The weights learnt differ by rounding."""
    temperature: Positive = 1.0
    """Of a DQN, whose policy is the softmax of its values at this temperature, in their own
    unit."""
    checkpoint_interval: Count = 100_000
    """Environment steps between two checkpoints."""

    @property
    def gate_names(self) -> tuple[GateName, ...]:
        """Which gates are fitted."""
        if self.method == "student" or self.gates == "none":
            return ()
        return ("sampled", "greedy") if self.gates == "both" else (self.gates,)

    @property
    def gate_steps(self) -> int:
        """Environment steps of the phase that fits the gates."""
        if not self.gate_names:
            return 0
        return self.gate_timesteps or min(GATE_TIMESTEPS, self.n_timesteps)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_student = self.method == "student"
        if is_student:
            require(self, self.gates in ("both", "none"), "gates", "none of a student")
        if not is_student:
            require_schedule(self, "learning_rates", "milestones")
        if is_student or "input" in (self.exits or ()):
            require_schedule(self, "pixel_learning_rates", "milestones")
        if is_student:
            exits = self.exits or NetworkConfig().default_exits
            listed = ", ".join(exits)
            require(self, self.student_of in exits, "student_of", f"one of exits ({listed})")


@dataclass(frozen=True)
class EvaluationConfig(Ranged):
    """Full games on raw points."""

    n_episodes: Count = 10
    """Games of each setting."""
    n_envs: Count = 32
    """Games played side by side, of all settings together."""
    action_mode: ActionMode = "greedy"
    """Whether actions are the likeliest or sampled."""
    noop_max: Annotated[int, Range(0, LONGEST_START)] = added(30, before=0)
    """Games begin with fewer than this many frames of no-op, whatever the policy was trained on;
    0 begins all games alike."""


CSV, JSON, PNG = "curve.csv", "curve.json", "curve.png"
"""What an evaluation leaves."""
JOURNAL = "games.jsonl"
"""The games of an evaluation that is not finished."""


@dataclass(frozen=True)
class EvalRun:
    """Resolved settings, saved beside the results."""

    agent: str
    thresholds: tuple[float, ...]
    rule: Literal[Rule, "patience"]
    disagreement: bool
    ensembles: bool
    seed: int
    evaluation: EvaluationConfig
    backend: BackendName
    """Its name on the command line; in ``curve.json``, the name for tables."""
    device: str
    """Where the games' network ran."""
    costs: tuple[float, ...] = ()
    """Mean costs of a decision that the thresholds were found for."""
    beside: tuple[float, ...] = ()
    """Confidence thresholds at the same costs, if the rule is another."""
    slopes: tuple[float, ...] = ()
    """With ``costs``: by how much each of both moves for one more of cost."""
