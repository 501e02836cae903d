"""Test AdaHessian in an eigenbasis against the methods it reduces to, and test how state survives a change of basis."""

import math

import numpy as np
import pytest
import torch

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.optim.dense import DenseHessianAdagradConfig, EigenbasisConfig
from dlrm_adahessian.optim.dense.eigenbasis import Eigenbasis
from tests.optim.dense.problem import DEEP, SAMPLES, STEPS

pytestmark = pytest.mark.oracle
SHAPES = [(4, 6), (4,), (1, 4), (1,)]
SIZE = sum(map(math.prod, SHAPES))


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def factors_like(optimizer, seed):
    """Return random Kronecker factors (K,): positive definite, with well-separated eigenvalues."""
    found = torch.empty_like(optimizer.state["factors"])
    for i, sides in enumerate(optimizer.basis.views(found).values()):
        for j, side in enumerate(sides):
            if side is not None:
                rows = draw(30, len(side), seed=(seed, i, j)) * torch.arange(1, len(side) + 1)
                side.copy_(rows.T @ rows)
    return found


def mean_in_coordinates(optimizer):
    found = optimizer.state["mean"].clone()
    for basis, matrix in optimizer._matrices(found):
        basis.turn_back_(matrix)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_in_coordinates_its_sum_is_accumulated_curvature_to_the_bit(dtype):
    ours = EigenbasisConfig(sides="none", accumulation="sum", beta1=0.9, beta2=1.0, lr=0.1)
    theirs = DenseHessianAdagradConfig(beta1=0.9, lr=0.1)
    grads, curvatures = draw(2, STEPS, sum(map(math.prod, DEEP))).to(dtype)
    ends = []
    for cfg in (ours, theirs):
        w = torch.zeros_like(grads[0])
        optimizer = cfg.build(w, DEEP)
        for step in range(STEPS):
            curvature = curvatures[step] if step % 3 == 0 else None
            optimizer.step(w, grads[step], curvature, lr_scale=0.5, samples=SAMPLES)
        ends.append(w)
    assert torch.equal(*ends)


@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
def test_with_squared_gradients_in_a_basis_that_stays_it_is_soap(update, monkeypatch):
    """Vyas et al. 2024, algorithm 3: Adam on Q_L^T G Q_R, with the step rotated back by Q_L and Q_R."""
    monkeypatch.setattr(Eigenbasis, "update_numba_", getattr(Eigenbasis, update))
    cfg = EigenbasisConfig(
        lr=0.1, beta1=0.9, beta2=0.95, source="gradient", rank=SIZE, refresh=10**6, eps=1e-3
    )
    w = draw(SIZE)
    expected = w.clone()
    optimizer = cfg.build(w, SHAPES)
    factors = factors_like(optimizer, 1)
    optimizer.observe_(factors)
    left, right = (np.linalg.eigh(side.numpy())[1] for side in optimizer.basis.views(factors)[0])
    mean, square = np.zeros((4, 6)), np.zeros((4, 6))
    weight = expected[:24].numpy().reshape(4, 6).copy()
    for step in range(1, STEPS + 1):
        grad = draw(SIZE, seed=step)
        optimizer.step(w, grad, None, lr_scale=0.5, samples=SAMPLES)
        matrix = grad[:24].numpy().reshape(4, 6)
        mean = 0.9 * mean + 0.1 * matrix
        square = 0.95 * square + 0.05 * (left.T @ matrix @ right) ** 2
        direction = (left.T @ mean @ right / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.95**step)) + cfg.eps)
        weight -= 0.5 * cfg.lr * left @ direction @ right.T
    np.testing.assert_allclose(w[:24].numpy().reshape(4, 6), weight, rtol=0, atol=1e-12)


def test_a_basis_that_permutes_carries_the_accumulator_over_exactly():
    cfg = EigenbasisConfig(rank=SIZE, refresh=1)
    w = draw(SIZE)
    optimizer = cfg.build(w, SHAPES)
    optimizer.step(w, draw(SIZE, seed=1), draw(SIZE, seed=2).abs(), lr_scale=1.0, samples=SAMPLES)
    before = {name: optimizer.state[name][:24].view(4, 6).clone() for name in ("mean", "square")}
    factors = torch.zeros_like(optimizer.state["factors"])
    orders = []
    for i, side in enumerate(optimizer.basis.views(factors)[0]):
        sizes = torch.randperm(len(side), generator=torch.Generator().manual_seed(i)).double() + 1
        side.copy_(sizes.diag())  # its eigenvectors are the coordinates, sorted by decreasing eigenvalue
        orders.append(sizes.argsort(descending=True))
    optimizer.observe_(factors)
    rows, columns = orders
    after = {name: optimizer.state[name][:24].view(4, 6) for name in before}
    torch.testing.assert_close(after["square"], before["square"][rows][:, columns], rtol=1e-13, atol=0)
    torch.testing.assert_close(
        after["mean"].abs(), before["mean"][rows][:, columns].abs(), rtol=1e-13, atol=1e-16
    )


def test_a_turn_of_the_basis_moves_a_mean_with_it_and_keeps_what_was_accumulated():
    cfg = EigenbasisConfig(rank=2, refresh=1)
    w = draw(SIZE)
    optimizer = cfg.build(w, SHAPES)
    for step in range(3):
        optimizer.step(w, draw(SIZE, seed=step), None, lr_scale=1.0, samples=SAMPLES)
        before = mean_in_coordinates(optimizer)
        total = optimizer.state["square"].sum()
        optimizer.observe_(factors_like(optimizer, step))
        torch.testing.assert_close(mean_in_coordinates(optimizer), before, rtol=0, atol=1e-13)
        torch.testing.assert_close(optimizer.state["square"].sum(), total, rtol=1e-13, atol=0)


def test_rounding_moves_no_weight_of_a_silent_unit():
    """A silent unit never has a gradient. Float64 is the reference, because its error per change of basis is 1e-16."""
    ends = []
    for dtype in (torch.float32, torch.float64):
        w = draw(12 * 20 + 12).to(dtype)
        optimizer = EigenbasisConfig(lr=0.1, rank=4, refresh=1).build(w, [(12, 20), (12,)])
        for step in range(40):
            delta, inputs = draw(8 * 12, seed=step).view(8, 12), draw(8 * 20, seed=99 + step).view(8, 20)
            delta[:, ::3] = 0
            inputs[:, ::4] = 0
            grad = torch.cat([(delta.T @ inputs).flatten(), delta.sum(0)])
            optimizer.step(w, grad.to(dtype), None, lr_scale=1.0, samples=8)
            factors = torch.cat([(delta.T @ delta).flatten(), (inputs.T @ inputs).flatten()])
            optimizer.observe_(factors.to(dtype))
        ends.append(w.double())
    torch.testing.assert_close(*ends, rtol=0, atol=1e-5)  # steps have size 0.1


def test_the_kernel_equals_the_reference():
    ends = []
    for update in (Eigenbasis.update_torch_, Eigenbasis.update_numba_):
        optimizer = EigenbasisConfig(curvature_floor=0.3, beta2=0.9).build(draw(SIZE), SHAPES)
        for step in range(STEPS):
            direction = draw(SIZE, seed=step)
            curvature = draw(SIZE, seed=100 + step) if step % 2 else None
            update(optimizer, direction, curvature, lr=0.3, scale=0.7, samples=SAMPLES)
        ends.append((direction, optimizer.state["mean"], optimizer.state["square"]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-13)


def test_an_average_that_never_moves_is_refused():
    with pytest.raises(UsageError, match="needs beta2 below 1"):
        EigenbasisConfig(beta2=1.0)
