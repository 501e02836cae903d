"""Test orthogonal bases in compact form against eigenvectors and Hessian blocks of a small DLRM, all in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.optim.basis import KroneckerBasis, Matrix, Side
from tests.oracles import BATCH, plain_logits, pooled_of, small_batch, small_config, small_head

pytestmark = pytest.mark.oracle
SIZE = 9


def new_side(factor, rank):
    zeros = factor.new_zeros(len(factor), rank)
    return Side(factor, zeros.clone(), zeros.clone())


def covariance(seed, size=SIZE, samples=40):
    rows = torch.randn(samples, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows *= torch.arange(1, size + 1) ** 0.7  # well-separated eigenvalues
    return rows.T @ rows / samples


def basis_of(head, sides="both", rank=4, **changes):
    parameters = torch.cat([p.detach().flatten() for p in head.parameters()])
    shapes = [p.shape for p in head.parameters()]
    settings = {"sides": sides, "rank": rank, "decay": 0.5, "diagonal": True, **changes}
    return KroneckerBasis(parameters, shapes, **settings)


def turned_at_random(basis):
    generator = torch.Generator().manual_seed(3)
    for matrix in basis.matrices.values():
        for side in filter(None, (matrix.input, matrix.output)):
            rows = torch.randn(20, len(side.factor), generator=generator, dtype=torch.float64)
            side.factor.copy_(rows.T @ rows)
            side.refresh_(first=True)


@pytest.mark.parametrize("rank", [1, 4, SIZE])
def test_first_columns_are_the_leading_eigenvectors_and_all_are_orthonormal(rank):
    side = new_side(covariance(0), rank)
    assert torch.equal(side.matrix(), torch.eye(SIZE, dtype=torch.float64))
    side.refresh_(first=True)
    q = side.matrix()
    torch.testing.assert_close(q.T @ q, torch.eye(SIZE, dtype=torch.float64), rtol=0, atol=1e-14)
    vectors = np.linalg.eigh(side.factor.numpy())[1][:, ::-1][:, :rank]
    np.testing.assert_allclose(np.abs(np.sum(vectors * q[:, :rank].numpy(), 0)), 1, rtol=0, atol=1e-12)
    rows = torch.randn(5, SIZE, dtype=torch.float64)
    torch.testing.assert_close(side.turn(rows), rows @ q, rtol=0, atol=1e-13)
    one, other = Matrix(None, side), Matrix(side, None)
    for turn, q_s, q_a in ((Matrix.turn_, q.T, q), (Matrix.turn_back_, q, q.T)):
        ours, columns = rows.clone(), rows.T.clone()
        turn(one, ours)
        turn(other, columns)
        torch.testing.assert_close(ours, rows @ q_a, rtol=0, atol=1e-13)
        torch.testing.assert_close(columns, q_s @ rows.T, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", [23, 54, 72, 92, 125])
def test_factors_of_low_rank_with_inactive_units_have_eigenvectors_in_float32(seed):
    """LAPACK's float32 eigh returns NaN for these or does not converge, on the machine where they were found."""
    generator = torch.Generator().manual_seed(seed)
    rank = 1 + seed % 3
    units = torch.relu(
        torch.randn(64, rank, generator=generator) @ torch.randn(rank, 256, generator=generator)
    )
    units[:, torch.rand(256, generator=generator) < 0.42] = 0
    side = new_side((units.T @ units) / 64 * 10.0 ** -(seed % 7), 32)
    side.refresh_(first=True)
    q, largest = side.matrix().double(), np.linalg.eigvalsh(side.factor.double().numpy())[-1]
    torch.testing.assert_close(q.T @ q, torch.eye(256, dtype=torch.float64), rtol=0, atol=1e-5)
    assert q[:, 0] @ side.factor.double() @ q[:, 0] == pytest.approx(largest, rel=1e-5)


def test_orthogonal_iteration_comes_to_the_eigenvectors_of_a_factor_that_moved():
    side = new_side(covariance(0), 3)
    side.refresh_(first=True)
    side.factor.copy_(covariance(1))
    for _ in range(200):
        side.refresh_(first=False)
    found = side.matrix()[:, :3].numpy()
    vectors = np.linalg.eigh(side.factor.numpy())[1][:, ::-1][:, :3]
    np.testing.assert_allclose(np.abs(np.sum(vectors * found, 0)), 1, rtol=0, atol=1e-10)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_factor_without_any_direction_leaves_an_orthogonal_matrix(first, dtype):
    side = new_side(torch.zeros(SIZE, SIZE, dtype=dtype), 4)
    for _ in range(3):
        side.refresh_(first=first)
        q = side.matrix()
        torch.testing.assert_close(q.T @ q, torch.eye(SIZE, dtype=dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sides", ["both", "input", "output", "none"])
def test_the_diagonal_in_a_basis_is_that_of_the_turned_hessian(sides):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    basis = basis_of(head, sides)
    turned_at_random(basis)
    found = ExactDiagonal(basis=basis)(head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH)
    assert found.curvature is not None
    parts = found.curvature.split([p.numel() for p in head.parameters()])
    named = {name: p.detach() for name, p in head.named_parameters()}

    def loss(name, value):
        logits = plain_logits({**named, name: value}, small_config(), dense, pooled_of(tables, hits))
        return F.binary_cross_entropy_with_logits(logits, labels)

    for i, (name, weight) in enumerate(named.items()):
        hessian = torch.func.hessian(lambda x, n=name, w=weight: loss(n, x.view_as(w)))(weight.flatten())
        turn = torch.eye(weight.numel(), dtype=torch.float64)
        if i in basis.matrices:
            matrix = basis.matrices[i]
            q_s, q_a = (
                torch.eye(size, dtype=torch.float64) if side is None else side.matrix()
                for size, side in zip(weight.shape, (matrix.output, matrix.input), strict=True)
            )
            turn = torch.kron(q_s, q_a)
        expected = (turn.T @ hessian @ turn).diagonal()
        torch.testing.assert_close(
            parts[i], expected, rtol=1e-10, atol=1e-14, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_factors_are_those_of_the_layers_and_their_first_mean_is_plain():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    basis = basis_of(head, diagonal=False)
    found = ExactDiagonal(basis=basis)(head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH)
    assert found.curvature is None
    (output, inputs) = basis.views(found.factors)[0]  # of layer bottom.0
    torch.testing.assert_close(inputs, dense.T @ dense / BATCH, rtol=1e-12, atol=0)
    # The Hessian at a layer's bias is its output factor.
    named = {name: p.detach() for name, p in head.named_parameters()}

    def loss(bias):
        logits = plain_logits(
            {**named, "bottom.0.bias": bias}, small_config(), dense, pooled_of(tables, hits)
        )
        return F.binary_cross_entropy_with_logits(logits, labels)

    torch.testing.assert_close(
        output, torch.func.hessian(loss)(named["bottom.0.bias"]), rtol=1e-10, atol=1e-16
    )
    basis.observe_(found.factors)
    assert torch.equal(basis.state["factors"], found.factors)
    basis.observe_(3 * found.factors)
    torch.testing.assert_close(basis.state["factors"], 2 * found.factors)
