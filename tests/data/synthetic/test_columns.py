"""Compare marginals of generated columns with their closed forms."""

import numpy as np
import pytest
from scipy import stats

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.schema import BagColumn, LabelColumn, Schema, TokenColumn
from dlrm_adahessian.data.synthetic.columns import (
    NO_TOKEN,
    Draws,
    cardinalities,
    dense_values,
    draw_columns,
    token_text,
)
from tests.data.synthetic.schemas import EVERY_KIND, schema_of

ROWS = 100_000


@pytest.fixture(scope="module")
def draws() -> Draws:
    config = SyntheticConfig(cardinality_scale=0.001)
    return draw_columns(EVERY_KIND, config, np.random.default_rng(0), ROWS)


def test_a_tenth_of_the_values_is_missing_independently(draws: Draws) -> None:
    absent = np.concatenate([np.isnan(draws.dense), draws.tokens == NO_TOKEN], axis=1)
    error = (0.1 * 0.9 / ROWS) ** 0.5
    assert (np.abs(absent.mean(axis=0) - 0.1) <= 5 * error).all()
    both = absent.astype(float).T @ absent / ROWS - np.diag(absent.mean(axis=0))
    assert (np.abs(both[~np.eye(6, dtype=bool)] - 0.01) <= 5 * (0.01 / ROWS) ** 0.5).all()


def test_values_are_lognormal_or_normal_as_the_transform_wants(draws: Draws) -> None:
    values = dense_values(EVERY_KIND, draws.dense)
    expected = (stats.lognorm(1.5, scale=np.e), stats.norm(), stats.norm(100, 15))
    for column, distribution in zip(values.T, expected, strict=True):
        found = stats.kstest(column[~np.isnan(column)], distribution.cdf)
        assert found.statistic <= 2 / (0.9 * ROWS) ** 0.5  # exceeded by chance once in 1,500
    assert (np.isnan(values) == np.isnan(draws.dense)).all()


@pytest.mark.parametrize("size", [1, 3, 50, 200_000])
def test_ranks_follow_the_power_law(size: int) -> None:
    schema = Schema(label=LabelColumn(column="y"), tokens=(TokenColumn(column="c", buckets=size),))
    ranks = draw_columns(schema, SyntheticConfig(), np.random.default_rng(1), ROWS).tokens[:, 0]
    ranks = ranks[ranks != NO_TOKEN]
    assert 0 <= ranks.min() <= ranks.max() < size
    # The integral of x**-1.1 from rank + 1 to rank + 2, divided by the integral from 1 to size + 1.
    edges = np.arange(1, size + 2, dtype=float) ** -0.1
    expected = -np.diff(edges)[:20] / (edges[0] - edges[-1]) * len(ranks)
    seen = np.bincount(ranks, minlength=20)[: len(expected)]
    assert (np.abs(seen - expected) <= 5 * np.sqrt(expected)).all()


def test_bags_have_geometric_lengths_up_to_their_end(draws: Draws) -> None:
    whole, ended = (bags.lengths for bags in draws.bags)
    for length in range(10):
        share = 0.2 * 0.8**length
        error = (share * (1 - share) / ROWS) ** 0.5
        assert abs((whole == length).mean() - share) <= 5 * error
    assert abs(whole.mean() - 4) <= 5 * (20 / ROWS) ** 0.5  # the variance is 0.8 / 0.2**2
    assert ended.max() == 3
    assert abs((ended == 3).mean() - 0.8**3) <= 5 * (0.5 / ROWS) ** 0.5


def test_cardinalities_are_those_of_buckets_or_published_or_of_the_characters() -> None:
    # C1, C4, and C5 have 1460, 2,202,608, and 305 distinct tokens in the published data.
    assert cardinalities(EVERY_KIND, 1.0)[1:3] == [50, 100]
    assert cardinalities(schema_of(0, 4, 1), 0.02) == [29, 12, 202_625, 44_052, 6]
    assert cardinalities(schema_of(0, 27, 0), 1.0)[26] == 1460


def test_weights_and_uniform_numbers_are_in_range(draws: Draws) -> None:
    assert draws.weights is not None
    assert draws.weights.dtype == np.float32
    assert 0.5 <= draws.weights.min() < 0.51 < 1.49 < draws.weights.max() < 1.5
    assert draw_columns(schema_of(1, 0, 0), SyntheticConfig(), np.random.default_rng(0), 5).weights is None


def test_tokens_are_told_apart_by_the_characters_that_are_read() -> None:
    ranks = np.array([0, 7, NO_TOKEN, 99])
    assert token_text(ranks, BagColumn(column="c")).to_pylist() == ["t0", "t7", None, "t99"]
    cut = token_text(ranks, TokenColumn(column="c", characters=(6, 8))).to_pylist()
    assert [text and text[6:8] for text in cut] == ["0", "7", None, "99"]
