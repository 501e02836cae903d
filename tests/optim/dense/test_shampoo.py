import sys

import numpy as np
import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.dense import ShampooConfig
from tests.optim.dense.problem import DEEP, SHAPES, SIZE, parameters_of, run, steps_of

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("block_size", [512, 3])
def test_shampoo_equals_the_package_on_parameters_of_its_own(block_size):
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    cfg = ShampooConfig(lr=0.1, start=5, precondition_every=3, block_size=block_size, weight_decay=0.01)
    w, grads, _, found = run(cfg, shapes=DEEP)
    parameters = parameters_of(w, DEEP)
    theirs = package.ScalableShampoo(
        parameters,
        lr=0.05,
        betas=(0.9, 0.999),
        moving_average_for_momentum=True,
        weight_decay=0.01,
        decoupled_weight_decay=True,
        start_preconditioning_step=5,
        preconditioning_compute_steps=3,
        block_size=block_size,
        shape_interpretation=False,
        graft_type=2,
    )
    # The roots iterate to an error of 1e-6. Rounding depends on addresses and may change the number of iterations.
    np.testing.assert_allclose(found, steps_of([theirs], parameters, grads), rtol=1e-5, atol=1e-6)


def test_shampoo_steps_along_inverse_fourth_roots_of_its_factors():
    """With one gradient, no momentum, and one block: L^-1/4 G R^-1/4, with the norm of Adagrad's step."""
    pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    cfg = ShampooConfig(lr=1.0, beta1=0.0, start=1, precondition_every=1, eps=1e-12)
    rng = np.random.default_rng(0)
    start, gradient = rng.normal(size=(2, 4, 4))
    w = torch.from_numpy(start.reshape(-1).copy())
    optimizer = cfg.build(w, [(4, 4)])
    optimizer.step(w, torch.from_numpy(gradient.reshape(-1).copy()), None, lr_scale=1.0, samples=1)

    def inverse_fourth_root(matrix):
        values, vectors = np.linalg.eigh(matrix)
        return (vectors * values**-0.25) @ vectors.T

    direction = (
        inverse_fourth_root(gradient @ gradient.T) @ gradient @ inverse_fourth_root(gradient.T @ gradient)
    )
    adagrad = np.sign(gradient)
    step = direction * np.linalg.norm(adagrad) / np.linalg.norm(direction)
    np.testing.assert_allclose(w.numpy().reshape(4, 4), start - step, rtol=1e-3)


def test_shampoo_without_its_package_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer.optimizer", None)
    monkeypatch.setitem(sys.modules, "pytorch_optimizer.optimizer.shampoo", None)
    with pytest.raises(
        UsageError, match=r"shampoo needs the package pytorch_optimizer.*pip install -e '.\[rivals\]'"
    ):
        ShampooConfig().build(torch.zeros(SIZE), SHAPES)
