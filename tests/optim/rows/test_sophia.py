import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.rows import RowSophiaConfig
from tests.optim.rows.problem import WIDTH, hits_of, start

pytestmark = pytest.mark.oracle


def test_sophia_without_curvature_moves_by_the_sign_of_the_mean_gradient():
    rule, w = RowSophiaConfig(lr=0.1).build(), start()
    grad = torch.from_numpy(np.random.default_rng(6).normal(size=(1, WIDTH)))
    rule.update_(w, rule.new_state(w), hits_of(torch.tensor([5]), grad), lr_scale=1, samples=1)
    torch.testing.assert_close(w[5], start()[5] - 0.1 * grad[0].sign(), rtol=1e-13, atol=1e-13)
