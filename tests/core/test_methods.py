from __future__ import annotations

import pytest

from ztw_rl.core.methods import without_ensemble


@pytest.mark.parametrize(("name", "bare"), [("ztw", "cascade"), ("ensemble", "sdn")])
def test_the_method_below_the_ensembles(name, bare):
    assert without_ensemble(name) == bare


@pytest.mark.parametrize("name", ["sdn", "cascade", "no_stop_gradient"])
def test_methods_without_such_a_one(name):
    with pytest.raises(ValueError, match=name):
        without_ensemble(name)
