"""What internal classifiers (ICs) learn to say: the labels, or what their own network says."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ztw_rl.core.model import EarlyExitModel
from ztw_rl.core.training import first_ic_cosine
from ztw_rl.supervised.config import ICTraining
from ztw_rl.supervised.data.source import Batch
from ztw_rl.supervised.engine import Engine, arithmetic


class ICLogits(nn.Module):
    """(B, E−1, C) logits of the ICs from images; the trunk is frozen, so it has no graph.

    A module of its own, so that several processes can average its gradients.
    """

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits for (B, …) inputs."""
        ics = islice(self.model.exits(images), len(self.model.ics))
        return torch.stack([ic.logits for ic in ics], dim=1)


class ExitLogits(nn.Module):
    """(B, E, C) logits of all exits, the network's own last; see ``ICLogits``."""

    def __init__(self, model: EarlyExitModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits for (B, …) inputs."""
        return torch.stack([found.logits for found in self.model.exits(images)], dim=1)


class LabelLearner:
    """Cross-entropy with the labels, summed over the ICs; see ``loop.Learner``.

    Args:
        model: Backbone and ICs.
        config: Arithmetic.
        engine: Processes and device.
    """

    name = "ics"

    def __init__(self, model: EarlyExitModel, config: ICTraining, engine: Engine) -> None:
        self._alone = ICLogits(model)
        self._logits = engine.prepare(ICLogits(model))
        self._config = config
        self._device = engine.device
        self._first = list(model.ics[0].parameters())

    def _log_probs(self, logits: nn.Module, images: Tensor) -> Tensor:
        with arithmetic(self._config.precision, self._device):
            found = logits(images)
        return torch.log_softmax(found.float(), dim=-1)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See ``Learner``."""
        log_probs = self._log_probs(self._logits, batch.images)
        right = (log_probs.argmax(dim=-1) == batch.truth.unsqueeze(1)).sum(dim=0)
        targets = batch.truth.unsqueeze(1).expand(-1, log_probs.shape[1])
        # A process may have no share of the last minibatch; a sum is then 0 where a mean is NaN.
        return F.nll_loss(log_probs.transpose(1, 2), targets, reduction="sum"), right

    def figures(self, batch: Batch) -> dict[str, float]:
        """See ``Learner``: how far the other ICs pull the first one away."""
        log_probs = self._log_probs(self._alone, batch.images)
        return {"gradient_cosine": first_ic_cosine(log_probs, batch.truth, self._first)}


class ImitationLearner:
    """KL(network ‖ IC), summed over the ICs; see ``loop.Learner``.

    A hit is where an IC's likeliest class is the network's.

    Args:
        model: Backbone and ICs.
        config: Arithmetic.
        engine: Processes and device.
    """

    name = "ics"

    def __init__(self, model: EarlyExitModel, config: ICTraining, engine: Engine) -> None:
        self._logits = engine.prepare(ExitLogits(model))
        self._config = config
        self._device = engine.device

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See ``Learner``."""
        with arithmetic(self._config.precision, self._device):
            found = self._logits(batch.images)
        log_probs = torch.log_softmax(found.float(), dim=-1)
        own, network = log_probs[:, :-1], log_probs[:, -1:].detach()
        right = (own.argmax(dim=-1) == network.argmax(dim=-1)).sum(dim=0)
        target = network.expand_as(own)
        return F.kl_div(own, target, reduction="sum", log_target=True), right

    def figures(self, batch: Batch) -> dict[str, float]:
        """See ``Learner``: nothing else."""
        return {}
