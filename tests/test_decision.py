from __future__ import annotations

import subprocess
import sys

import numpy as np

from ztw_rl.decision import answered


def test_what_log_probabilities_amount_to():
    log_probs = np.log(np.array([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5]], np.float32))
    decision = answered(log_probs, np.array([1, 0, 2]))
    assert decision.labels.tolist() == decision.actions.tolist() == [1, 0, 0]
    assert decision.exits.tolist() == [1, 0, 2]
    np.testing.assert_allclose(decision.confidences, [0.8, 0.6, 0.5], rtol=1e-6)
    assert decision.log_probs is log_probs


def test_a_batch_may_be_empty_and_a_sample_broken():
    assert answered(np.zeros((0, 3), np.float32), np.zeros(0, int)).labels.shape == (0,)
    (confidence,) = answered(np.full((1, 3), np.nan, np.float32), np.zeros(1, int)).confidences
    assert np.isnan(confidence)


def test_deployed_models_need_no_torch():
    code = "import sys, ztw_rl.deploy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
