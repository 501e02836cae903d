import numpy as np
import pytest

from dlrm_adahessian.optim.dense import AdagradConfig, DenseHessianAdagradConfig
from dlrm_adahessian.optim.dense.hessian_adagrad import DenseHessianAdagrad
from tests.optim.dense.problem import SAMPLES, STEPS, run

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(("floor", "beta1"), [(0.1, 0.0), (1.0, 0.0), (1.0, 0.9)])
@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
def test_hessian_adagrad_equals_its_formula(every, floor, beta1, update, monkeypatch):
    monkeypatch.setattr(DenseHessianAdagrad, "update_numba_", getattr(DenseHessianAdagrad, update))
    cfg = DenseHessianAdagradConfig(lr=0.1, eps=1e-3, curvature_floor=floor, beta1=beta1)
    w, grads, curvatures, found = run(cfg, every=every)
    total, mean = np.zeros_like(w), np.zeros_like(w)
    for step in range(STEPS):
        square = grads[step] ** 2
        if step % every == 0:
            total += np.maximum(np.abs(curvatures[step]) / SAMPLES, floor * square)
        else:
            total += square
        mean = beta1 * mean + (1 - beta1) * grads[step]
        corrected = mean / (1 - beta1 ** (step + 1))
        w = w - 0.5 * cfg.lr * corrected / (np.sqrt(total) + cfg.eps)
    np.testing.assert_allclose(found, w, rtol=0, atol=1e-12)


def test_hessian_adagrad_is_adagrad_where_the_curvature_is_the_squared_gradient():
    _, grads, _, expected = run(AdagradConfig(lr=0.1))
    *_, found = run(DenseHessianAdagradConfig(lr=0.1), grads=grads, curvatures=SAMPLES * grads**2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
