import numpy as np
import pytest

from dlrm_adahessian.optim.dense import SophiaConfig
from tests.optim.dense.problem import SIZE, STEPS, run

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("every", [1, 3])
def test_sophia_equals_the_papers_algorithm(every):
    cfg = SophiaConfig(lr=0.1, gamma=20.0, weight_decay=0.2)
    w, grads, curvatures, found = run(cfg, every=every)
    m, h, clipped = np.zeros_like(w), np.zeros_like(w), 0
    for step in range(STEPS):
        m = 0.96 * m + 0.04 * grads[step]
        if step % every == 0:
            h = 0.99 * h + 0.01 * curvatures[step]
        direction = m / np.maximum(20 * h, 1e-12)
        clipped += (abs(direction) > 1).sum()
        w = w * (1 - 0.05 * 0.2) - 0.05 * np.clip(direction, -1, 1)
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)
    assert 0 < clipped < STEPS * SIZE
