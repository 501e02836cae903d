"""Test the column preconditioner against brute force in float64."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head
from dlrm_adahessian.optim.columns import Columns, ColumnsConfig

pytestmark = pytest.mark.oracle
SAMPLES, FEATURES, DIM = 12, 3, 4
LIKE = torch.zeros((), dtype=torch.float64)


def gradients(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scales = torch.tensor([3.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    drawn = torch.randn(SAMPLES, FEATURES, DIM, generator=generator, dtype=torch.float64)
    return drawn * scales / SAMPLES


def observed(cfg, *batches):
    columns = Columns(cfg, LIKE, FEATURES, DIM)
    for grad in batches:
        columns.observe_(columns.factors(grad))
    return columns


@pytest.mark.parametrize("power", [0.25, 0.5, 1.0])
def test_the_root_is_that_of_the_mean_outer_product_and_keeps_the_mean_length(power):
    grad = gradients()
    columns = observed(ColumnsConfig(power=power, damping=1e-12), grad)
    turned, _ = columns.turned(grad, None)
    for feature in range(FEATURES):
        g = SAMPLES * grad[:, feature].numpy()  # gradient of each sample's own loss
        c = sum(np.outer(row, row) for row in g) / SAMPLES
        root = fractional_matrix_power(c, -power)
        expected = g @ root
        expected *= np.linalg.norm(g) / np.linalg.norm(expected)
        np.testing.assert_allclose(SAMPLES * turned[:, feature].numpy(), expected, rtol=1e-8, atol=1e-10)


def test_a_half_power_makes_the_columns_of_the_batch_uncorrelated():
    grad = gradients()
    turned, _ = observed(ColumnsConfig(power=0.5, damping=1e-12), grad).turned(grad, None)
    for feature in range(FEATURES):
        product = turned[:, feature].T @ turned[:, feature]
        np.testing.assert_allclose(product.numpy(), np.eye(DIM) * float(product[0, 0]), atol=1e-9)


def test_power_zero_turns_nothing():
    grad = gradients()
    turned, _ = observed(ColumnsConfig(power=0.0), grad).turned(grad, None)
    np.testing.assert_allclose(turned.numpy(), grad.numpy(), rtol=1e-12, atol=1e-16)


def test_the_average_is_the_plain_mean_at_first_and_the_root_is_renewed_when_due():
    cfg = ColumnsConfig(power=0.5, refresh=4, decay=0.9)
    batches = [gradients(seed) for seed in range(6)]
    columns = Columns(cfg, LIKE, FEATURES, DIM)
    roots = []
    for grad in batches:
        columns.observe_(columns.factors(grad))
        roots.append(columns.state["root"].clone())
    mean = torch.stack([columns.factors(grad) for grad in batches]).mean(0)
    np.testing.assert_allclose(columns.state["mean"].numpy(), mean.numpy(), rtol=1e-12)
    renewed = [not torch.equal(*pair) for pair in pairwise(roots)]
    assert renewed == [True, False, True, False, False]  # after steps 1, 2, and 4


@pytest.mark.parametrize("pooled", ["entries", "mean"])
def test_the_exact_diagonal_is_that_of_the_hessian_in_the_new_coordinates(pooled):
    """Brute force: with x_b = P y_b, the block at y_b is P^T H P, with H from autograd."""
    generator = torch.Generator().manual_seed(4)
    model = DLRMConfig(bottom=(6,), top=(5,), embedding_dim=DIM)
    head = Head(model, num_dense=2, num_features=FEATURES, generator=generator, dtype=torch.float64)
    dense = torch.randn(SAMPLES, 2, generator=generator, dtype=torch.float64)
    x = torch.randn(SAMPLES, FEATURES, DIM, generator=generator, dtype=torch.float64)
    labels = (torch.rand(SAMPLES, generator=generator) < 0.4).double()
    found = ExactDiagonal(pooled=pooled)(head, dense, x, labels, curvature_samples=SAMPLES)
    columns = observed(ColumnsConfig(power=0.5), found.pooled_grad)
    root = columns.state["root"]
    _, curvature = columns.turned(found.pooled_grad, found.pooled_curvature)

    def loss(y):
        logits = head(dense, torch.einsum("fij,bfj->bfi", root, y))
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    y = torch.linalg.solve(root, x.transpose(0, 1).transpose(1, 2)).transpose(1, 2).transpose(0, 1)
    hessian = torch.autograd.functional.hessian(loss, y.contiguous()).reshape(x.numel(), x.numel())
    diagonal = hessian.diagonal().view(SAMPLES, FEATURES, DIM)
    expected = diagonal if pooled == "entries" else diagonal.mean(2, keepdim=True)
    np.testing.assert_allclose(curvature.numpy(), expected.numpy(), rtol=1e-9, atol=1e-15)


def test_samples_without_a_gradient_get_none_and_no_nan():
    grad = gradients()
    grad[0] = 0
    columns = observed(ColumnsConfig(power=0.5), grad)
    for width in (1, DIM):
        curvature = torch.zeros(SAMPLES, FEATURES, width, dtype=torch.float64)
        turned, after = columns.turned(grad, curvature)
        assert torch.equal(turned[0], torch.zeros(FEATURES, DIM, dtype=torch.float64))
        assert bool(after.isfinite().all())


def test_there_is_nothing_to_turn_without_features_or_without_power():
    assert ColumnsConfig(power=0.5).build(LIKE, 0, DIM) is None
    assert ColumnsConfig(power=0.0).build(LIKE, FEATURES, DIM) is None
    assert ColumnsConfig(power=0.5).build(LIKE, FEATURES, DIM) is not None


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_feature_that_had_no_gradient_yet_is_not_turned(power):
    grad = gradients()
    grad[:, 1] = 0
    root = observed(ColumnsConfig(power=power), grad).state["root"]
    np.testing.assert_allclose(root[1].numpy(), np.eye(DIM), atol=1e-12)
    assert bool(root.isfinite().all())


def test_weighted_factors_are_those_of_repeated_samples():
    of_own_loss = gradients() * SAMPLES
    weights = torch.arange(SAMPLES) % 4
    repeated = of_own_loss.repeat_interleave(weights, 0)
    factors = weights / weights.double().mean()
    columns = Columns(ColumnsConfig(power=0.5), LIKE, FEATURES, DIM)
    found = columns.factors(of_own_loss * factors.view(-1, 1, 1) / SAMPLES, factors)
    torch.testing.assert_close(found, columns.factors(repeated / len(repeated)), rtol=1e-13, atol=0)
