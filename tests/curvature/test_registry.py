"""Properties of every estimator in the registry. A new estimator is tested automatically."""

from typing import get_args

import pytest
import torch

from dlrm_adahessian.curvature.base import flat, gradient
from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.curvature.registry import ONE_PASS, CurvatureName, make_estimator, matrix_of
from tests.curvature.draws import draws_of, within_five_standard_errors
from tests.oracles import (
    BATCH,
    FEATURES,
    brute_force_diagonals,
    pooled_of,
    repeated,
    small_batch,
    small_config,
    small_head,
    small_weights,
)

pytestmark = pytest.mark.oracle
NAMES = [name for name in get_args(CurvatureName) if name != "none"]
TABLES = [f"C{i}" for i in range(FEATURES)]


def make(name, head, pooled="entries", *, probes=3, seed=0, tables=TABLES):
    return make_estimator(
        name,
        head.parts,
        tables,
        probes=probes,
        precision="fp32",
        pooled=pooled,
        seed=seed,
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_part_of_the_batch_gives_that_parts_curvature_and_the_whole_gradient(name):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled, part = pooled_of(tables, hits), 3
    found = make(name, head)(head, dense, pooled, labels, curvature_samples=part)
    alone = make(name, head)(head, dense[:part], pooled[:part], labels[:part], curvature_samples=part)
    torch.testing.assert_close(found.grad, gradient(head, dense, pooled, labels).grad, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(found.curvature, alone.curvature, rtol=1e-12, atol=1e-15)
    if name in ONE_PASS:  # gives row curvature for free
        whole = make(name, head)(head, dense, pooled, labels, curvature_samples=BATCH)
        assert torch.equal(found.pooled_curvature, whole.pooled_curvature)
        assert found.pooled_samples == BATCH
    else:
        torch.testing.assert_close(
            found.pooled_curvature[:part], alone.pooled_curvature * part / BATCH, rtol=1e-12, atol=1e-15
        )
        assert not found.pooled_curvature[part:].any()
        assert found.pooled_samples == part


@pytest.mark.parametrize("name", NAMES)
def test_rows_get_the_mean_of_their_curvature_or_none_when_that_is_what_they_read(name):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    entries, mean, none = (
        make(name, head, pooled)(head, dense, pooled_of(tables, hits), labels, curvature_samples=4)
        for pooled in ("entries", "mean", "none")
    )
    expected = entries.pooled_curvature.mean(2, keepdim=True)
    torch.testing.assert_close(mean.pooled_curvature, expected, rtol=1e-12, atol=1e-18)
    assert none.pooled_curvature is None
    assert none.pooled_samples == 0
    for found in (mean, none):
        assert torch.equal(found.curvature, entries.curvature)
        assert torch.equal(found.pooled_grad, entries.pooled_grad)


@pytest.mark.parametrize("name", NAMES)
def test_estimator_resumes_with_the_same_draws(name):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    first, second = (make(name, head, probes=1, seed=seed) for seed in (0, 1))
    first(head, dense, pooled, labels, curvature_samples=BATCH)
    assert second.state.keys() == first.state.keys()
    for part, tensor in second.state.items():
        tensor.copy_(first.state[part])
    second.load_state()
    a, b = (e(head, dense, pooled, labels, curvature_samples=BATCH).curvature for e in (first, second))
    assert torch.equal(a, b)


def test_none_is_the_gradient_alone():
    head = small_head()
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    found = make("none", head)(head, dense, pooled, labels, curvature_samples=BATCH)
    expected = gradient(head, dense, pooled, labels)
    assert torch.equal(found.grad, expected.grad)
    assert found.curvature is None
    assert found.pooled_curvature is None


def test_the_exact_diagonal_by_name_is_refused_where_it_is_not_exact():
    with pytest.raises(
        ValueError, match=r"curved in its weights and pooled. Use curvature gauss_newton .*hutchinson"
    ):
        make("exact", small_head(self_interaction=True))


def test_estimators_say_of_which_matrix_they_are():
    parts = Parts(weights="hessian", pooled="gauss_newton")
    found = {name: matrix_of(name, parts) for name in get_args(CurvatureName)}
    assert found == {
        "exact": parts,
        "gauss_newton": parts,
        "hutchinson": Parts(weights="hessian", pooled="hessian"),
        "gauss_newton_bartlett": parts,
        "none": None,
    }


def test_a_model_that_nobody_vouches_for_is_measured():
    head = small_head(self_interaction=True)
    dense, tables, hits, labels = small_batch()
    estimator = make_estimator(
        "exact", None, TABLES, probes=1, precision="fp32", pooled="mean", seed=0, device=torch.device("cpu")
    )
    with pytest.raises(ValueError, match="curved in its weights .at bottom.0. and pooled"):
        estimator(head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH)


@pytest.mark.parametrize("name", ONE_PASS)
def test_a_table_that_two_features_read_is_refused_in_one_pass(name):
    with pytest.raises(ValueError, match="C0 is read by several features. Use --curvature hutchinson"):
        make(name, small_head(), tables=["C0", "C1", "C0"])


@pytest.mark.parametrize("kind", [Hutchinson, GaussNewtonBartlett])
def test_mean_of_weighted_draws_is_within_five_standard_errors_of_the_hessian_of_repeated_samples(kind):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    weights, factors = small_weights()
    of_many, hits_of_many, labels_of_many = repeated(weights, dense, hits, labels)
    *expected, expected_tables = brute_force_diagonals(
        head, small_config(), of_many, tables, hits_of_many, labels_of_many
    )
    draws = draws_of(kind, head, BATCH, factors)
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))


@pytest.mark.parametrize("name", NAMES)
def test_equal_weights_change_nothing(name):
    head = small_head()
    dense, tables, hits, labels = small_batch()
    plain, weighted = (
        make(name, head)(
            head, dense, pooled_of(tables, hits), labels, curvature_samples=BATCH, weights=weights
        )
        for weights in (None, torch.ones(BATCH, dtype=torch.float64))
    )
    for part in ("loss", "grad", "pooled_grad", "curvature", "pooled_curvature"):
        torch.testing.assert_close(getattr(weighted, part), getattr(plain, part), rtol=1e-14, atol=1e-17)
