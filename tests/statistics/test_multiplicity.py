"""Holm's adjustment against closed testing, a hand-computed example, and its own promise."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlrm_adahessian.statistics.multiplicity import holm

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def closed_testing(values):
    """Return the closure of Bonferroni's test: a hypothesis goes when every intersection with it goes."""
    family = range(len(values))
    subsets = [set(s) for size in range(1, len(values) + 1) for s in itertools.combinations(family, size)]
    return [
        max(min(1.0, len(s) * min(values[i] for i in s)) for s in subsets if hypothesis in s)
        for hypothesis in family
    ]


@pytest.mark.oracle
@given(p_values)
def test_holm_is_the_closure_of_bonferroni(values) -> None:
    assert holm(values) == pytest.approx(closed_testing(values), rel=1e-15, abs=0)


@pytest.mark.oracle
def test_holm_by_hand() -> None:
    # 0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to nothing: 0.06 twice), 0.04 x 1 raised to 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.5, 0.9]) == [1.0, 1.0]


@pytest.mark.oracle
def test_holm_keeps_the_chance_of_any_false_rejection() -> None:
    # Five true hypotheses with correlated statistics and one false one.
    rng = np.random.default_rng(0)
    trials = 2_000
    shared, own = rng.normal(size=(trials, 1)), rng.normal(size=(trials, 6))
    statistics = 0.5**0.5 * (shared + own) + np.array([0, 0, 0, 0, 0, 3.0])
    table = 2 * stats.norm.sf(np.abs(statistics))
    false = sum(min(holm(row)[:5]) <= 0.05 for row in table)
    assert false <= stats.binom.ppf(1 - 1e-4, trials, 0.05)
    assert sum(min(row[:5]) <= 0.05 for row in table) > 0.1 * trials  # unadjusted, far more often


@given(p_values, st.integers())
def test_holm_is_monotone_and_knows_no_order(values, seed) -> None:
    adjusted = holm(values)
    assert all(p <= q <= 1 for p, q in zip(values, adjusted, strict=True))
    assert [q for _, q in sorted(zip(values, adjusted, strict=True))] == sorted(adjusted)
    order = random.Random(seed).sample(range(len(values)), len(values))
    assert holm([values[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("values", [[-0.1], [0.5, 1.5], [float("nan"), 0.1]])
def test_holm_refuses(values) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got .*leave undefined ones out"):
        holm(values)
