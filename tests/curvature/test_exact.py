import pytest
import torch
from torch import nn

from dlrm_adahessian.curvature.base import flat, gradient
from dlrm_adahessian.curvature.exact import ExactDiagonal, refuse_inexact
from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.model.dlrm import Head
from dlrm_adahessian.runtime.precision import cpu_gains_from_bf16
from tests.oracles import (
    BATCH,
    FEATURES,
    WIDTH,
    brute_force_diagonals,
    plain_logits,
    pooled_of,
    small_batch,
    small_config,
    small_head,
)

pytestmark = pytest.mark.oracle
TABLES = [f"C{i}" for i in range(FEATURES)]


def table_diagonal(pooled_curvature, hits):
    return torch.einsum("fbr,bfd->frd", hits.square(), pooled_curvature)


def draws_of(estimator, head, curvature_samples):
    """Curvature at the head's parameters and the tables, 1,500 times."""
    dense, tables, hits, labels = small_batch()
    draws = []
    for _ in range(1_500):
        found = estimator(head, dense, pooled_of(tables, hits), labels, curvature_samples=curvature_samples)
        rows = table_diagonal(found.pooled_curvature, hits)
        draws.append(torch.cat([found.curvature, rows.reshape(-1)]))
    return torch.stack(draws)


def within_five_standard_errors(draws, expected):
    return ((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / len(draws) ** 0.5 + 1e-12).all()


def test_exact_diagonal_equals_the_brute_force_hessian():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    *expected, expected_tables = brute_force_diagonals(head, small_config(), dense, tables, hits, labels)
    found = ExactDiagonal()(head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH)
    torch.testing.assert_close(found.curvature, flat(expected), rtol=1e-10, atol=1e-17)
    torch.testing.assert_close(
        table_diagonal(found.pooled_curvature, hits), expected_tables, rtol=1e-10, atol=1e-17
    )


@pytest.mark.parametrize("changes", [{}, {"activation": "gelu"}, {"self_interaction": True}])
def test_head_and_its_gradient_equal_dlrm_written_out(changes):
    head = small_head(**changes)
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits).requires_grad_()
    values = dict(head.named_parameters())
    plain = plain_logits(values, small_config(**changes), dense, pooled)
    torch.testing.assert_close(head(dense, pooled), plain, rtol=1e-12, atol=1e-13)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(plain, labels)
    expected = torch.autograd.grad(loss, [*values.values(), pooled])
    found = gradient(head, dense, pooled, labels)
    torch.testing.assert_close(found.grad, flat(expected[:-1]), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pooled_grad, expected[-1], rtol=1e-12, atol=1e-15)


def test_exact_gradient_equals_autograd():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    expected = gradient(head, dense, pooled, labels)
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.pooled_grad, expected.pooled_grad, rtol=1e-12, atol=1e-15)


def test_rounded_products_change_no_entry_of_the_diagonal_by_more_than_their_rounding_and_no_gradient():
    generator = torch.Generator().manual_seed(0)
    head = Head(
        ModelConfig(), num_dense=13, num_features=26, generator=generator
    )  # small products are not rounded
    dense, pooled = torch.rand(64, 13, generator=generator), torch.randn(64, 26, 16, generator=generator)
    labels = torch.rand(64, generator=generator).lt(0.25).float()
    plain, rounded = (
        ExactDiagonal(precision)(head, dense, pooled, labels, curvature_samples=64)
        for precision in ("fp32", "bf16")
    )
    # Two factors with 8 significant bits each, all terms of one sign.
    torch.testing.assert_close(rounded.curvature, plain.curvature, rtol=2**-7, atol=0)
    for name in ("loss", "logits", "grad", "pooled_grad", "pooled_curvature"):
        assert torch.equal(getattr(rounded, name), getattr(plain, name)), name
    is_rounded = not torch.allclose(rounded.curvature, plain.curvature, rtol=2**-12, atol=0)
    assert is_rounded == cpu_gains_from_bf16()


SAMPLING = [
    lambda pooled="entries": Hutchinson(3, 0, torch.device("cpu"), pooled),
    lambda pooled="entries": GaussNewtonBartlett(3, 0, torch.device("cpu"), pooled),
]


@pytest.mark.parametrize("make", [ExactDiagonal, *SAMPLING])
def test_a_part_of_the_batch_gives_that_parts_curvature_and_the_whole_gradient(make):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled, part = pooled_of(tables, hits), 3
    found = make()(head, dense, pooled, labels, curvature_samples=part)
    alone = make()(head, dense[:part], pooled[:part], labels[:part], curvature_samples=part)
    torch.testing.assert_close(found.grad, gradient(head, dense, pooled, labels).grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.curvature, alone.curvature, rtol=1e-12, atol=1e-15)
    if make is ExactDiagonal:  # which has the rows' at no cost
        whole = make()(head, dense, pooled, labels, curvature_samples=BATCH)
        assert torch.equal(found.pooled_curvature, whole.pooled_curvature)
        assert found.pooled_samples == BATCH
    else:
        torch.testing.assert_close(
            found.pooled_curvature[:part], alone.pooled_curvature, rtol=1e-12, atol=1e-15
        )
        assert not found.pooled_curvature[part:].any()
        assert found.pooled_samples == part


@pytest.mark.parametrize("make", [lambda pooled: ExactDiagonal("fp32", pooled), *SAMPLING])
def test_rows_get_the_mean_of_their_curvature_or_none_when_that_is_what_they_read(make):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    entries, mean, none = (
        make(pooled)(head, dense, pooled_of(tables, hits), labels, curvature_samples=4)
        for pooled in ("entries", "mean", "none")
    )
    expected = entries.pooled_curvature.mean(2, keepdim=True)
    torch.testing.assert_close(mean.pooled_curvature, expected, rtol=1e-12, atol=1e-18)
    assert none.pooled_curvature is None
    assert none.pooled_samples == 0
    for found in (mean, none):
        assert torch.equal(found.curvature, entries.curvature)
        assert torch.equal(found.pooled_grad, entries.pooled_grad)


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
        head.bottom[0].weight.zero_()  # large inputs, and logits that do not follow them
    found = ExactDiagonal()(head, dense + 100, pooled_of(tables, hits), labels, curvature_samples=BATCH)
    largest = float(torch.exp(-found.logits.double()).max())  # p (1 - p)
    for derivative in (found.curvature, found.pooled_curvature):
        assert derivative.isfinite().all()
        assert derivative.max() <= 1e6 * largest


@pytest.mark.parametrize("changes", [{}, {"activation": "gelu"}, {"self_interaction": True}])
def test_mean_of_hutchinson_draws_is_within_five_standard_errors_of_the_hessian(changes):
    head = small_head(**changes)
    dense, tables, hits, labels = small_batch()
    *expected, expected_tables = brute_force_diagonals(
        head, small_config(**changes), dense, tables, hits, labels
    )
    draws = draws_of(Hutchinson(1, 0, torch.device("cpu")), head, BATCH)
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))


@pytest.mark.parametrize("samples", [BATCH, 4])
def test_mean_of_gauss_newton_bartlett_draws_is_within_five_standard_errors_of_the_hessian(samples):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    *expected, expected_tables = brute_force_diagonals(
        head, small_config(), dense[:samples], tables, hits[:, :samples], labels[:samples]
    )
    draws = draws_of(GaussNewtonBartlett(1, 0, torch.device("cpu")), head, samples)
    assert (draws >= 0).all()
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))


def test_gauss_newton_bartlett_of_a_curved_model_estimates_gauss_newton():
    """(1/B) sum_b p_b (1 - p_b) (dz_b/dtheta)^2, which is not the Hessian's diagonal for gelu."""
    head, cfg = small_head(activation="gelu"), small_config(activation="gelu")
    dense, tables, hits, labels = small_batch()
    values = {name: p.detach() for name, p in head.named_parameters()}
    slopes, table_slopes = torch.func.jacrev(
        lambda v, t: plain_logits(v, cfg, dense, pooled_of(t, hits)), argnums=(0, 1)
    )(values, tables)
    p = plain_logits(values, cfg, dense, pooled_of(tables, hits)).sigmoid()
    slopes = torch.cat([s.reshape(BATCH, -1) for s in (*slopes.values(), table_slopes)], 1)
    expected = (slopes.square() * (p * (1 - p) / BATCH).unsqueeze(1)).sum(0)
    draws = draws_of(GaussNewtonBartlett(1, 0, torch.device("cpu")), head, BATCH)
    assert within_five_standard_errors(draws, expected)
    *hessian, _ = brute_force_diagonals(head, cfg, dense, tables, hits, labels)
    assert not within_five_standard_errors(draws[:, : len(flat(hessian))], flat(hessian))


def test_gauss_newton_bartlett_at_the_pooled_embeddings_is_each_samples_own():
    """With one sample's gradient g, the estimate is g^2 for B = 1, and the mean loss over B scales it by 1/B."""
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
    ]  # |p - y|, y the label drawn
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


@pytest.mark.parametrize("kind", [Hutchinson, GaussNewtonBartlett])
def test_estimator_resumes_with_the_same_draws(kind):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    first, second = (kind(1, seed, torch.device("cpu")) for seed in (0, 1))
    first(head, dense, pooled, labels, curvature_samples=BATCH)
    second.state["generator"].copy_(first.state["generator"])
    second.load_state()
    a, b = (e(head, dense, pooled, labels, curvature_samples=BATCH).curvature for e in (first, second))
    assert torch.equal(a, b)


class CrossLayer(nn.Module):
    def forward(self, x):
        return x * x


@pytest.mark.parametrize(
    "module", [nn.GELU(), nn.SiLU(), nn.BatchNorm1d(5), nn.LayerNorm(5), CrossLayer(), nn.Sigmoid()]
)
def test_exact_refuses_modules_that_are_not_piecewise_linear(module):
    head = small_head()
    head.top.append(module)
    with pytest.raises(ValueError, match=rf"{type(module).__name__} \(top.3\).*hutchinson"):
        refuse_inexact(head, TABLES)


def test_exact_refuses_self_interaction():
    with pytest.raises(ValueError, match="DotInteraction.*self-interaction"):
        refuse_inexact(small_head(self_interaction=True), TABLES)


def test_exact_refuses_a_table_that_two_features_read():
    with pytest.raises(ValueError, match="C0 is read by several"):
        refuse_inexact(small_head(), ["C0", "C1", "C0"])


def test_exact_refuses_a_shared_parameter():
    head = small_head()
    head.top.append(nn.Linear(WIDTH, WIDTH))
    head.top[-1].weight = head.bottom[2].weight
    with pytest.raises(ValueError, match="is shared"):
        refuse_inexact(head, TABLES)


class Scaled(nn.Module):
    affine_in_each_input = True

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))


def test_exact_refuses_parameters_outside_linear_layers():
    head = small_head()
    head.top.append(Scaled())
    with pytest.raises(ValueError, match=r"linear layers only, and Scaled \(top.3\)"):
        refuse_inexact(head, TABLES)


def test_exact_accepts_the_models_own_head():
    refuse_inexact(small_head(), TABLES)
