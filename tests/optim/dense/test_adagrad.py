import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.dense import AdagradConfig, DenseHessianAdagradConfig
from tests.optim.dense.problem import STEPS, assert_equals_torchs, run

pytestmark = pytest.mark.oracle


def test_adagrad_equals_torchs():
    cfg = AdagradConfig(lr=0.1, eps=1e-8)
    assert_equals_torchs(cfg, lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-8))


def test_an_initial_accumulator_is_torchs():
    cfg = AdagradConfig(lr=0.1, eps=1e-8, initial_accumulator=0.3)
    assert_equals_torchs(
        cfg, lambda p: torch.optim.Adagrad(p, lr=0.05, eps=1e-8, initial_accumulator_value=0.3)
    )


def test_momentum_equals_its_formula_and_accumulated_curvature_without_curvature():
    w, grads, _, found = run(AdagradConfig(lr=0.1, beta1=0.9, initial_accumulator=0.2))
    mean, total = np.zeros_like(w), np.full_like(w, 0.2)
    for step, grad in enumerate(grads, 1):
        mean, total = 0.9 * mean + 0.1 * grad, total + grad**2
        w = w - 0.05 * mean / (1 - 0.9**step) / (np.sqrt(total) + 1e-8)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)
    *_, ours = run(AdagradConfig(lr=0.1, beta1=0.9), grads=grads)
    *_, theirs = run(
        DenseHessianAdagradConfig(lr=0.1, beta1=0.9), grads=grads, every=STEPS, curvatures=0 * grads
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
