import pytest
import torch

from dlrm_adahessian.optim.dense import AdagradConfig
from tests.optim.dense.problem import assert_equals_torchs

pytestmark = pytest.mark.oracle


def test_adagrad_equals_torchs():
    cfg = AdagradConfig(lr=0.1, eps=1e-8)
    assert_equals_torchs(cfg, lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-8))
