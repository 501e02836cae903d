import pytest
import torch

from dlrm_adahessian.curvature.base import flat, gradient
from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett
from tests.curvature.draws import draws_of, within_five_standard_errors
from tests.oracles import (
    BATCH,
    PARTS,
    brute_force_diagonals,
    plain_logits,
    pooled_of,
    small_batch,
    small_config,
    small_head,
)

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("samples", [BATCH, 4])
def test_mean_of_gauss_newton_bartlett_draws_is_within_five_standard_errors_of_the_hessian(samples):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    *expected, expected_tables = brute_force_diagonals(
        head, small_config(), dense[:samples], tables, hits[:, :samples], labels[:samples]
    )
    draws = draws_of(GaussNewtonBartlett, head, samples)
    assert (draws >= 0).all()
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))


@pytest.mark.parametrize("sizes", list(PARTS.values())[1:], ids=list(PARTS)[1:])
def test_models_with_one_kind_of_column_have_their_hessian_too(sizes):
    head, batch = small_head(*sizes), small_batch(2, *sizes)
    with torch.no_grad():
        head.top[-1].weight.mul_(0.1)  # otherwise 1,500 draws may miss a label of a confident sample
    *expected, expected_tables = brute_force_diagonals(head, small_config(), *batch)
    draws = draws_of(GaussNewtonBartlett, head, BATCH, sizes=sizes)
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))


def test_gauss_newton_bartlett_of_a_curved_model_estimates_gauss_newton():
    """The truth is (1/B) sum_b p_b (1 - p_b) (dz_b/dtheta)^2. For GELU it is not the Hessian's diagonal."""
    head, cfg = small_head(activation="gelu"), small_config(activation="gelu")
    dense, tables, hits, labels = small_batch()
    values = {name: p.detach() for name, p in head.named_parameters()}
    slopes, table_slopes = torch.func.jacrev(
        lambda v, t: plain_logits(v, cfg, dense, pooled_of(t, hits)), argnums=(0, 1)
    )(values, tables)
    p = plain_logits(values, cfg, dense, pooled_of(tables, hits)).sigmoid()
    slopes = torch.cat([s.reshape(BATCH, -1) for s in (*slopes.values(), table_slopes)], 1)
    expected = (slopes.square() * (p * (1 - p) / BATCH).unsqueeze(1)).sum(0)
    draws = draws_of(GaussNewtonBartlett, head, BATCH)
    assert within_five_standard_errors(draws, expected)
    *hessian, _ = brute_force_diagonals(head, cfg, dense, tables, hits, labels)
    assert not within_five_standard_errors(draws[:, : len(flat(hessian))], flat(hessian))


def test_gauss_newton_bartlett_at_the_pooled_embeddings_is_each_samples_own():
    """With a sample's gradient g, the estimate is g^2 for B = 1. The mean loss over B samples scales it by 1/B."""
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    logits = head(dense, leaf := pooled.requires_grad_())
    (slopes,) = torch.autograd.grad(logits.sum(), leaf)
    found = GaussNewtonBartlett(1, 0, torch.device("cpu"))(
        head, dense, pooled, labels, curvature_samples=BATCH
    )
    residual = (found.pooled_curvature * BATCH / slopes.square()).sqrt()[
        :, 0, 0
    ]  # |p - y|, with y the sampled label
    p = logits.detach().sigmoid()
    assert torch.minimum((residual - p).abs(), (residual - (1 - p)).abs()).max() < 1e-12


def test_more_draws_of_labels_are_averaged():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    one, three = (GaussNewtonBartlett(draws, 5, torch.device("cpu")) for draws in (1, 3))
    each = [one(head, dense, pooled, labels, curvature_samples=BATCH) for _ in range(3)]
    found = three(head, dense, pooled, labels, curvature_samples=BATCH)
    torch.testing.assert_close(found.curvature, sum(d.curvature for d in each) / 3, rtol=1e-12, atol=1e-18)
    expected = gradient(head, dense, pooled, labels)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pooled_grad, expected.pooled_grad, rtol=1e-12, atol=1e-15)
