"""What networks and policies with exits share, before and after the exits have learnt."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from ztw_rl.api import EarlyExit, Propose, Wishes
from ztw_rl.core.backends.eager import eager
from ztw_rl.core.choice import Forced
from ztw_rl.core.deployable import Deployable
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.runtime import Runtime
from ztw_rl.decision import Decision
from ztw_rl.errors import UserError
from ztw_rl.points.targets import Proposal


class Learner(EarlyExit):
    """Exits that learn in this process. Until they have, the full network answers.

    Args:
        name: What it is called.
        trained: The network with exits.
        x: (1, …), any input of the right shape and type, where the network is.
        labels: Of the classes or actions.
        told: What ``repr`` says until they have learnt.
        seed: Of sampled actions; None of a classifier.
    """

    learns_by: str
    """The method that lets them learn."""

    def __init__(
        self,
        name: str,
        trained: EarlyExitModel,
        x: Tensor,
        labels: list[str],
        told: str,
        seed: int | None,
    ) -> None:
        self._trained = trained
        self._x = x
        self._learnt = False
        full = Proposal(Forced(trained.n_exits - 1))
        super().__init__(name, self._run, x, labels, told, None, full, seed)
        self._settle(full, told)

    @abstractmethod
    def _deployable(self) -> Deployable:
        """What ``export`` writes."""

    @abstractmethod
    def _propose(self, wishes: Wishes) -> Proposal:
        """See ``api.Propose``."""

    def _settle(self, proposal: Proposal, told: str) -> None:
        """Run at this operating point from now on."""
        model = self._trained.judged(proposal.point.rule)
        each = proposal.each(model.n_exits - 1)
        self._runtime = Runtime(eager(model), self._x, each, model.rule)
        self._loaded, self._told = proposal, told

    def _run(self, batch: Tensor) -> Decision:
        return self._runtime.predict(batch.to(self._x.device))

    def _exportable(self) -> tuple[Deployable, Propose]:
        if not self._learnt:
            raise UserError(
                f"the exits of {self.name} have learnt nothing yet; call {self.learns_by} first"
            )
        return self._deployable(), self._propose
