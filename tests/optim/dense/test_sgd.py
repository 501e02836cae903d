import numpy as np
import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.dense import SGDConfig
from tests.optim.dense.problem import assert_equals_torchs, run

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(
    ("cfg", "options"),
    [
        (SGDConfig(lr=0.1, momentum=0.0), {}),
        (SGDConfig(lr=0.1), {"momentum": 0.9}),
        (SGDConfig(lr=0.1, nesterov=True), {"momentum": 0.9, "nesterov": True}),
    ],
)
def test_sgd_equals_torchs(cfg, options):
    assert_equals_torchs(cfg, lambda p: torch.optim.SGD(p, lr=0.05, **options))


def test_sgd_decays_weights_apart_from_the_gradient():
    w, grads, _, found = run(SGDConfig(lr=0.1, momentum=0.8, weight_decay=0.3))
    m = np.zeros_like(w)
    for grad in grads:
        m = 0.8 * m + grad
        w = w * (1 - 0.05 * 0.3) - 0.05 * m
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(UsageError, match="needs a momentum above 0, but got 0"):
        SGDConfig(momentum=0.0, nesterov=True)
