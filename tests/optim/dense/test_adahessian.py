import numpy as np
import pytest
import torch

from dlrm_adahessian.optim.dense import AdaHessianConfig, AdamConfig
from tests.optim.dense.problem import SAMPLES, SHAPES, SIZE, STEPS, run

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("floor", [0.0, 1.0])
def test_adahessian_equals_the_papers_formula(every, power, block_size, floor):
    cfg = AdaHessianConfig(
        lr=0.1, power=power, block_size=block_size, curvature_floor=floor, weight_decay=0.01, eps=1e-2
    )
    w, grads, curvatures, found = run(cfg, every=every)
    m, v, t = np.zeros_like(w), np.zeros_like(w), 0
    for step in range(STEPS):
        m = cfg.beta1 * m + (1 - cfg.beta1) * grads[step]
        if step % every == 0:
            t += 1
            h = curvatures[step].copy()
            if block_size > 1:
                for begin in (0, 4, 6, 10):
                    end = {0: 4, 4: 6, 6: 10, 10: 11}[begin]
                    h[begin:end] = abs(h[begin:end].mean())
            h = np.maximum(h, floor * SAMPLES * grads[step] ** 2) if floor else h
            v = cfg.beta2 * v + (1 - cfg.beta2) * h**2
        m_hat, v_hat = m / (1 - cfg.beta1 ** (step + 1)), v / (1 - cfg.beta2**t)
        w = w * (1 - 0.05 * cfg.weight_decay) - 0.05 * m_hat / (np.sqrt(v_hat) ** power + cfg.eps)
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)


def test_adahessian_with_the_gradient_as_curvature_is_adam():
    grads = np.random.default_rng(1).normal(size=(STEPS, SIZE))
    ours = AdaHessianConfig(power=1.0, lr=0.1, curvature_floor=0.0, eps=1e-8)
    found = run(ours, grads=grads, curvatures=grads)[-1]
    np.testing.assert_allclose(found, run(AdamConfig(lr=0.1, eps=1e-8), grads=grads)[-1], rtol=1e-11)


def test_adahessian_without_power_is_momentum():
    w, grads, _, found = run(AdaHessianConfig(lr=0.1, power=0.0, eps=0.0))
    m = np.zeros_like(w)
    for step in range(STEPS):
        m = 0.9 * m + 0.1 * grads[step]
        w = w - 0.05 * m / (1 - 0.9 ** (step + 1))
    np.testing.assert_allclose(found, w, rtol=1e-12)


def test_adahessian_waits_for_the_first_curvature():
    w = torch.ones(11)
    optimizer = AdaHessianConfig().build(w, SHAPES)
    optimizer.step(w, torch.ones(11), None, lr_scale=1, samples=1)
    assert torch.equal(w, torch.ones(11))


def test_with_average_rows_it_is_the_rule_of_the_authors_code():
    """Means of absolute values over each row of a matrix, single entries of a bias, power 1, no floor, and eps last."""
    cfg = AdaHessianConfig(lr=0.15, eps=1e-4, power=1.0, average_rows=True, curvature_floor=0.0)
    w, grads, curvatures, found = run(cfg)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step in range(STEPS):
        absolute = abs(curvatures[step])
        matrix = np.repeat(absolute[:6].reshape(2, 3).mean(1), 3)
        h = np.concatenate([matrix, absolute[6:]])
        m, v = 0.9 * m + 0.1 * grads[step], 0.999 * v + 0.001 * h**2
        root = np.sqrt(v / (1 - 0.999 ** (step + 1)))
        w = w - 0.5 * 0.15 * m / (1 - 0.9 ** (step + 1)) / (root + 1e-4)
    np.testing.assert_allclose(found, w, rtol=1e-12, atol=1e-12)
