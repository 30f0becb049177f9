"""Fits a classifier's gates, from what its exits said of the training images.

Backbone and ICs have seen these images before, so leaving early costs less on them than on others:
what gates predict is in order, but too low. A gate whose exit never errs on them learns nothing.
"""

from __future__ import annotations

import copy

import torch

from ztw_rl.core.gate_training import N_EPOCHS, fit_gates
from ztw_rl.core.gates import GateSamples, error_regret, kl_regret
from ztw_rl.core.model import EarlyExitModel
from ztw_rl.supervised.cache import Cache
from ztw_rl.supervised.loop import RunLog, add_task


@torch.no_grad()
def samples_of(model: EarlyExitModel, cache: Cache) -> GateSamples:
    """What gates see of the cache.

    Args:
        model: Whose ensembles are done.
        cache: With pooled features.
    """
    alone = cache.log_probs[: len(cache.pooled[0])]
    n_ics = model.n_exits - 1
    if model.ensemble is None:
        return GateSamples(cache.pooled, alone[:, :n_ics], alone[:, n_ics])
    n = model.ensemble.n_exits
    ensembled = copy.deepcopy(model.ensemble).cpu()(alone[:, :n])
    # An ensemble may take in what the network itself says.
    full = torch.cat([ensembled, alone[:, n:]], dim=1)[:, n_ics]
    return GateSamples(cache.pooled, ensembled[:, :n_ics], full)


def fit(model: EarlyExitModel, cache: Cache, seed: int, run_log: RunLog, step: int) -> None:
    """Fit what leaving early costs: the labels' loss, or without any the distance from the network.

    Args:
        model: Whose ensembles are done.
        cache: From ``cache.fill``.
        seed: Of the minibatches.
        run_log: Shows how far it is.
        step: What the logs count on from.

    Raises:
        UserError: Loss or weights are no finite numbers.
    """
    samples = samples_of(model, cache)
    if cache.labels is None:
        target = kl_regret(samples.full, samples.answers)
    else:
        target = error_regret(samples.full, samples.answers, cache.labels[: len(samples)])
    task = add_task(run_log, "gates", N_EPOCHS)
    assert task is not None

    def on_epoch(epoch: int, loss: float) -> None:
        run_log.write("gates", {"loss": loss}, step + epoch)
        run_log.progress.update(task, completed=epoch, loss=loss)

    (name,) = model.gates
    device = next(model.ics.parameters()).device
    gates = [gate.cpu() for gate in model.gates_of(name)]
    explained = fit_gates(gates, samples, target, torch.Generator().manual_seed(seed), on_epoch)
    model.gates.to(device)
    for m, share in enumerate(explained):
        run_log.write("gates", {f"explained/exit_{m}": share}, step + N_EPOCHS)
