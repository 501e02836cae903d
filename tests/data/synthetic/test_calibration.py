"""Check the scales and the intercept of a planted logit."""

import numpy as np
import pytest

from dlrm_adahessian.data.synthetic.calibration import calibrated


def test_logits_deviate_and_click_as_asked_for() -> None:
    parts = (np.random.default_rng(0).normal(size=(50_000, 2)) * (0.1, 40) + (3, -200)).astype(np.float32)
    parts[:, 1] += 300 * parts[:, 0]  # parts correlate
    logit = calibrated(parts, [3.0, 4.0], 0.1)
    logits = parts.astype(np.float64) @ logit.scale + logit.intercept
    assert logits.std() == pytest.approx(5)
    assert (1 / (1 + np.exp(-logits))).mean() == pytest.approx(0.1)
    assert logit.probability(parts) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    shares = parts.std(axis=0, dtype=np.float64) * logit.scale
    assert shares[0] / shares[1] == pytest.approx(3 / 4)
