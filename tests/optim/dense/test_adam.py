import pytest
import torch

from dlrm_adahessian.optim.dense import AdamConfig
from tests.optim.dense.problem import assert_equals_torchs

pytestmark = pytest.mark.oracle


def test_adam_equals_torchs_adamw():
    cfg = AdamConfig(lr=0.1, eps=1e-8, weight_decay=0.01)
    assert_equals_torchs(cfg, lambda p: torch.optim.AdamW(p, lr=0.05, eps=1e-8, weight_decay=0.01))
