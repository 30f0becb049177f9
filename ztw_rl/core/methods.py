"""Early-exit methods, told apart by what a model is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ztw_rl.core.ensembles import AdditiveEnsemble, Ensemble, GeometricEnsemble


@dataclass(frozen=True)
class Method:
    """Which parts an early-exit model has beside its plain ICs."""

    cascade: bool
    """Each IC sees its predecessor's logits."""
    ensemble: type[Ensemble] | None = None
    """How the exits reached so far are combined."""
    stop_gradient: bool = True
    """Cascade connections shield the predecessor from the successor's loss."""


METHODS: dict[str, Method] = {
    "ztw": Method(cascade=True, ensemble=GeometricEnsemble),
    "sdn": Method(cascade=False),
    "cascade": Method(cascade=True),
    "ensemble": Method(cascade=False, ensemble=GeometricEnsemble),
    "additive": Method(cascade=True, ensemble=AdditiveEnsemble),
    "no_stop_gradient": Method(cascade=True, ensemble=GeometricEnsemble, stop_gradient=False),
}
"""By name. PBEE is no model of its own: it is ``sdn`` under the patience rule."""


def without_ensemble(name: str) -> str:
    """The method whose model is the same but for the ensembles.

    Args:
        name: One of ``METHODS``.

    Raises:
        ValueError: It has no ensembles, or no other method has its ICs.
    """
    wanted = replace(METHODS[name], ensemble=None)
    for other, method in METHODS.items():
        if method == wanted and other != name:
            return other
    raise ValueError(f"{name} is no other method with ensembles on top")
