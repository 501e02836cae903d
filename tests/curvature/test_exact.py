import pytest
import torch

from dlrm_adahessian.curvature.base import NoCurvature, all_finite, flat, gradient, trained
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head, flatten_parameters_
from dlrm_adahessian.optim.basis import KroneckerBasis
from dlrm_adahessian.runtime.device import cpu_gains_from_bf16
from tests.curvature.draws import table_diagonal
from tests.curvature.heads import Mlp, batch, hessian_diagonals, made
from tests.oracles import (
    BATCH,
    PARTS,
    brute_force_diagonals,
    pooled_of,
    repeated,
    small_batch,
    small_config,
    small_head,
    small_weights,
)

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_exact_diagonal_equals_the_brute_force_hessian(sizes):
    head = small_head(*sizes)
    dense, tables, hits, labels = small_batch(2, *sizes)
    *expected, expected_tables = brute_force_diagonals(head, small_config(), dense, tables, hits, labels)
    found = ExactDiagonal()(head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH)
    torch.testing.assert_close(found.curvature, flat(expected), rtol=1e-10, atol=1e-17)
    torch.testing.assert_close(
        table_diagonal(found.pooled_curvature, hits), expected_tables, rtol=1e-10, atol=1e-17
    )


@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_exact_gradient_equals_autograd(sizes):
    head = small_head(*sizes)
    dense, tables, hits, labels = small_batch(2, *sizes)
    pooled = pooled_of(tables, hits)
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    expected = gradient(head, dense, pooled, labels)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pooled_grad, expected.pooled_grad, rtol=1e-12, atol=1e-15)


def test_rounded_products_change_no_entry_of_the_diagonal_by_more_than_their_rounding_and_no_gradient():
    generator = torch.Generator().manual_seed(0)
    head = Head(
        DLRMConfig(), num_dense=13, num_features=26, generator=generator
    )  # small products are not rounded
    dense, pooled = torch.rand(64, 13, generator=generator), torch.randn(64, 26, 16, generator=generator)
    labels = torch.rand(64, generator=generator).lt(0.25).float()
    plain, rounded = (
        ExactDiagonal(precision)(head, dense, pooled, labels, curvature_samples=64)
        for precision in ("fp32", "bf16")
    )
    # Two factors have 8 significant bits each, and all terms have the same sign.
    torch.testing.assert_close(rounded.curvature, plain.curvature, rtol=2**-7, atol=0)
    for name in ("loss", "logits", "grad", "pooled_grad", "pooled_curvature"):
        assert torch.equal(getattr(rounded, name), getattr(plain, name)), name
    is_rounded = not torch.allclose(rounded.curvature, plain.curvature, rtol=2**-12, atol=0)
    assert is_rounded == cpu_gains_from_bf16()


def test_rows_have_the_exact_curvature_on_a_step_on_which_the_dense_part_has_none():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    *_, expected = brute_force_diagonals(head, small_config(), dense, tables, hits, labels)
    found = ExactDiagonal()(head, dense, pooled_of(tables, hits), labels, curvature_samples=0)
    assert found.curvature is None
    torch.testing.assert_close(table_diagonal(found.pooled_curvature, hits), expected, rtol=1e-10, atol=1e-17)


def test_exact_curvature_of_confident_samples_survives_float32():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    with torch.no_grad():
        head.top[-1].bias.fill_(30.0)  # p rounds to 1 in float32
    pooled = pooled_of(tables, hits)
    truth = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    single = ExactDiagonal()(
        head.float(), dense.float(), pooled.float(), labels.float(), curvature_samples=BATCH
    )
    torch.testing.assert_close(single.curvature.double(), truth.curvature, rtol=1e-3, atol=0)


@pytest.mark.parametrize("bias", [50.0, 85.0, 200.0])
def test_exact_curvature_of_utterly_confident_samples_is_finite_and_next_to_nothing(bias):
    head = small_head().float()
    dense, tables, hits, labels = (tensor.float() for tensor in small_batch())
    with torch.no_grad():
        head.top[-1].bias.fill_(bias)
        head.bottom[0].weight.zero_()  # large inputs, but logits that do not depend on them
    found = ExactDiagonal()(head, dense + 100, pooled_of(tables, hits), labels, curvature_samples=BATCH)
    largest = float(torch.exp(-found.logits.double()).max())  # p (1 - p)
    for derivative in (found.curvature, found.pooled_curvature):
        assert derivative.isfinite().all()
        assert derivative.max() <= 1e6 * largest


def test_weighted_derivatives_are_those_of_repeated_samples():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    weights, factors = small_weights()
    of_many, hits_of_many, labels_of_many = repeated(weights, dense, hits, labels)
    *expected, expected_tables = brute_force_diagonals(
        head, small_config(), of_many, tables, hits_of_many, labels_of_many
    )
    pooled = pooled_of(tables, hits)
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH, weights=factors)
    torch.testing.assert_close(found.curvature, flat(expected), rtol=1e-10, atol=1e-17)
    torch.testing.assert_close(
        table_diagonal(found.pooled_curvature, hits), expected_tables, rtol=1e-10, atol=1e-17
    )
    plain = gradient(head, of_many, pooled_of(tables, hits_of_many), labels_of_many)
    for of_weights in (found, gradient(head, dense, pooled, labels, factors)):
        torch.testing.assert_close(of_weights.loss, plain.loss, rtol=1e-13, atol=0)
        torch.testing.assert_close(of_weights.grad, plain.grad, rtol=1e-12, atol=1e-15)
    rows = torch.einsum("fbr,bfd->frd", hits, found.pooled_grad)
    of_repeated = torch.einsum("fbr,bfd->frd", hits_of_many, plain.pooled_grad)
    torch.testing.assert_close(rows, of_repeated, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("bias", [0.0, 85.0])
def test_samples_without_weight_leave_finite_derivatives_in_float32(bias):
    head = small_head().float()
    dense, tables, hits, labels = (tensor.float() for tensor in small_batch())
    with torch.no_grad():
        head.top[-1].bias.fill_(bias)
    for weights in (small_weights()[1].float(), torch.zeros(BATCH)):
        found = ExactDiagonal()(
            head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH, weights=weights
        )
        assert all_finite(found)
        assert not found.pooled_curvature[weights == 0].any()


@pytest.mark.parametrize("weighted", [False, True])
def test_soft_labels_have_the_brute_force_hessian_also_where_the_residual_is_zero(weighted):
    head, (dense, pooled, _) = made(Mlp), batch()
    labels = torch.tensor([0.0, 1.0, 0.25, 0.9, 0.5, 0.01], dtype=torch.float64)
    labels[2] = head(dense, pooled)[2].sigmoid().detach()
    factors = torch.tensor([1.0, 0.5, 2.0, 1.5, 1.0, 0.0], dtype=torch.float64) if weighted else None
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=6, weights=factors)
    expected = gradient(head, dense, pooled, labels, factors)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pooled_grad, expected.pooled_grad, rtol=1e-12, atol=1e-15)
    weights, of_pooled = hessian_diagonals(head, dense, pooled, labels, factors)
    torch.testing.assert_close(found.curvature, weights, rtol=1e-12, atol=1e-17)
    torch.testing.assert_close(found.pooled_curvature, of_pooled, rtol=1e-12, atol=1e-17)


def test_soft_labels_have_the_hessian_in_float32_too_where_a_zero_logit_meets_a_half():
    head, (dense, pooled, _) = made(Mlp), batch()
    with torch.no_grad():
        head.last.weight.mul_(1e-3)
        head.last.bias.zero_()
    labels = torch.full((6,), 0.5, dtype=torch.float64)
    weights, of_pooled = hessian_diagonals(head, dense, pooled, labels)
    found = ExactDiagonal()(head.float(), dense.float(), pooled.float(), labels.float(), curvature_samples=6)
    torch.testing.assert_close(found.curvature.double(), weights, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(found.pooled_curvature.double(), of_pooled, rtol=1e-4, atol=1e-12)


FROZEN = [["first.weight", "first.bias"], ["first.weight"], ["last.bias"], ["last.weight", "first.bias"]]


@pytest.mark.parametrize("frozen", FROZEN, ids=" ".join)
def test_frozen_parameters_have_no_place_in_the_derivatives(frozen):
    head, (dense, pooled, labels) = made(Mlp), batch()
    for name in frozen:
        head.get_parameter(name).requires_grad_(requires_grad=False)
    before = [p.detach().clone() for p in head.parameters()]
    vector = flatten_parameters_(head)
    assert len(vector) == sum(p.numel() for p in head.parameters() if p.requires_grad)
    assert all(torch.equal(p, q) for p, q in zip(head.parameters(), before, strict=True))
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=6)
    expected = gradient(head, dense, pooled, labels)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-15)
    weights, of_pooled = hessian_diagonals(head, dense, pooled, labels)
    torch.testing.assert_close(found.curvature, weights, rtol=1e-12, atol=1e-17)
    torch.testing.assert_close(found.pooled_curvature, of_pooled, rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("sides", ["both", "input"])
def test_a_frozen_weight_has_no_basis(sides):
    head, (dense, pooled, labels) = made(Mlp), batch()
    head.first.weight.requires_grad_(requires_grad=False)
    vector = flatten_parameters_(head)
    shapes = [p.shape for p in trained(head)]
    basis = KroneckerBasis(vector, shapes, sides=sides, rank=2, decay=0.9, diagonal=True)
    found = ExactDiagonal(basis=basis)(head, dense, pooled, labels, curvature_samples=6)
    weights, _ = hessian_diagonals(head, dense, pooled, labels)  # the basis is still the coordinates
    torch.testing.assert_close(found.curvature, weights, rtol=1e-12, atol=1e-17)
    inputs = head.first(head.read(dense, pooled)).relu().detach()
    factor = basis.views(found.factors)[1][1]
    torch.testing.assert_close(factor, inputs.T @ inputs / 6, rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize("estimator", [ExactDiagonal(), NoCurvature()])
def test_a_head_without_a_trained_parameter_is_refused(estimator):
    head, (dense, pooled, labels) = made(Mlp), batch()
    head.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="parameters that require a gradient, but Mlp has none"):
        estimator(head, dense, pooled, labels, curvature_samples=6)
