"""Generated data of any schema has the promised click model."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.rows import Bags, ColumnBlock
from dlrm_adahessian.data.schema import BagColumn, from_dict
from dlrm_adahessian.data.synthetic import any_schema
from dlrm_adahessian.data.synthetic.any_schema import PIECE, row_blocks
from tests.data.columnar.slow import fnv
from tests.data.synthetic.schemas import EVERY_KIND, generated, schema_of

ROWS = 100_000
CLICK_RATE = 11_745_438 / 45_840_617
CALIBRATION_ERROR = 0.0006  # standard error 0.27 / (4 * 2**16)**0.5


@pytest.fixture(scope="module")
def block() -> ColumnBlock:
    return generated(EVERY_KIND, ROWS)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw a quarter of the samples at a time. The click model is calibrated on a quarter as many, too."""
    any_schema._plant.cache_clear()
    monkeypatch.setattr(any_schema, "PIECE", PIECE // 4)
    yield
    any_schema._plant.cache_clear()


def is_missing(block: ColumnBlock, bit: int) -> np.ndarray:
    return (block.missing[:, bit // 64] >> np.uint64(bit % 64) & np.uint64(1)).astype(bool)


def auc(block: ColumnBlock) -> float:
    clicked = block.labels == 1
    clicks = clicked.sum()
    ranks = rankdata(block.probability)
    return (ranks[clicked].sum() - clicks * (clicks + 1) / 2) / (clicks * (len(block) - clicks))


@pytest.mark.parametrize("rows", [1, 1000, PIECE, PIECE + 1])
def test_rows_do_not_depend_on_the_number_asked_for(rows: int, block: ColumnBlock) -> None:
    some = generated(EVERY_KIND, rows)
    assert len(some) == rows
    for name in ("labels", "values", "tokens", "missing", "weights", "probability"):
        np.testing.assert_array_equal(getattr(some, name), getattr(block, name)[:rows], err_msg=name)
    for bags, whole in zip(some.bags, block.bags, strict=True):
        np.testing.assert_array_equal(bags.values, whole[:rows].values)
        np.testing.assert_array_equal(bags.offsets, whole[:rows].offsets)


def test_no_piece_repeats_another() -> None:
    rows = generated(EVERY_KIND, 2 * PIECE)
    assert not (rows.values[:PIECE] == rows.values[PIECE:]).all(axis=1).any()


def test_seeds_share_tokens_but_not_rows(block: ColumnBlock) -> None:
    other = generated(EVERY_KIND, ROWS, seed=2**63 - 1)
    assert not (other.values == block.values).all(axis=1).any()
    assert set(other.tokens[:, 1]) == set(block.tokens[:, 1])


def test_each_kind_of_column_is_as_the_schema_says(block: ColumnBlock) -> None:
    assert block.values.dtype == np.float64
    assert block.tokens.dtype == np.uint64
    assert block.tokens.max() < 2**63
    assert block.missing.shape == (ROWS, 1)
    for place in range(3):
        assert (is_missing(block, place) == np.isnan(block.values[:, place])).all()
        assert (is_missing(block, 3 + place) == (block.tokens[:, place] == 0)).all()
    assert not block.missing.max() >> np.uint64(6)
    distinct = [len(set(block.tokens[:, place]) - {0}) for place in range(3)]
    assert distinct == [3, 50, 100]
    assert [bags.lengths.max() > 3 for bags in block.bags] == [True, False]
    assert all((bags.values > 0).all() and (bags.values < 2**63).all() for bags in block.bags)
    assert block.weights is not None
    assert generated(schema_of(1, 0, 0), 10).weights is None


@pytest.mark.usefixtures("small_pieces")
def test_texts_are_what_tokens_were_hashed_from() -> None:
    (block,) = row_blocks(EVERY_KIND, SyntheticConfig(cardinality_scale=0.01), 100)
    columns = [*block.tokens.T, *(bags.values for bags in block.bags)]
    for tokens, found in zip(columns, block.texts, strict=True):
        hashes = [0 if text is None else fnv(text) for text in found.texts.to_pylist()]
        assert hashes == found.tokens.tolist() == tokens.tolist()


@pytest.mark.usefixtures("small_pieces")
def test_criteo_s_format_has_tokens_of_32_bits_without_texts() -> None:
    schema = schema_of(1, 3, 0, format="criteo")
    tokens = generated(schema, 1000).tokens
    assert 2**24 < tokens.max() < 2**32
    (block,) = row_blocks(schema, SyntheticConfig(cardinality_scale=0.01), 10)
    assert not block.texts


def test_click_rate_is_that_of_criteo_like_rows(block: ColumnBlock) -> None:
    probability = block.probability.astype(np.float64)
    error = (probability.var() / ROWS + CALIBRATION_ERROR**2) ** 0.5
    assert abs(probability.mean() - CLICK_RATE) <= 5 * error


def test_labels_are_drawn_from_the_probability(block: ColumnBlock) -> None:
    probability = block.probability.astype(np.float64)
    groups = {
        "probability": np.digitize(probability, np.linspace(0.05, 0.95, 19)),
        "missing": np.unique(block.missing, return_inverse=True)[1].ravel() % 16,
        "token": np.unique(block.tokens[:, 0], return_inverse=True)[1],
        "bag": np.minimum(block.bags[0].lengths, 9),
        "time": np.arange(ROWS) * 10 // ROWS,
    }
    for name, group in groups.items():
        variance = np.bincount(group, probability * (1 - probability))
        excess = np.bincount(group, block.labels - probability)
        assert (np.abs(excess) <= 5 * np.sqrt(variance)).all(), name


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("kinds", "seed"), [((13, 26, 0), 0), ((3, 4, 2), 0), ((3, 4, 2), 1), ((3, 4, 2), 2), ((5, 0, 2), 0)]
)
def test_task_is_as_hard_whatever_the_columns_and_the_seed(kinds: tuple[int, int, int], seed: int) -> None:
    assert 0.80 < auc(generated(schema_of(*kinds), PIECE // 2, seed=seed, scale=0.02)) < 0.84


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "kinds", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (4, 0, 0), (0, 4, 0), (0, 0, 4), (0, 70, 1)]
)
def test_kinds_may_be_absent(kinds: tuple[int, int, int]) -> None:
    rows = generated(schema_of(*kinds), PIECE // 4, scale=0.02)
    assert (rows.values.shape[1], rows.tokens.shape[1], len(rows.bags)) == kinds
    assert abs(rows.labels.mean() - CLICK_RATE) < 0.02
    assert 0.7 < auc(rows) < 0.9


@pytest.mark.usefixtures("small_pieces")
def test_a_column_of_one_token_is_told_by_who_lacks_it() -> None:
    columns = {"tokens": [{"column": "c", "buckets": 1}], "bags": [{"column": "b", "buckets": 1}]}
    schema = from_dict({"label": {"column": "click"}, **columns})
    rows = generated(schema, 20_000)
    assert set(rows.tokens[:, 0]) - {0} == set(rows.bags[0].values)
    # P(click) depends only on which of the two are present.
    kind = 2 * (rows.tokens[:, 0] == 0) + (rows.bags[0].lengths == 0)
    probability = [set(rows.probability[kind == each].tolist()) for each in range(4)]
    assert all(max(found) - min(found) < 1e-6 for found in probability)
    assert np.ptp([min(found) for found in probability]) > 0.1


@pytest.mark.usefixtures("small_pieces")
def test_probability_is_that_of_the_row_alone() -> None:
    """Samples with equal values have equal probabilities, for any order of values in a bag."""
    schema = replace(schema_of(0, 2, 0), bags=(BagColumn(column="b", buckets=3, max_length=2),))
    rows = generated(schema, 50_000)
    seen: dict[tuple, float] = {}
    for row in range(len(rows)):
        key = (*rows.tokens[row].tolist(), *sorted(rows.bags[0][row : row + 1].values.tolist()))
        assert seen.setdefault(key, rows.probability[row]) == pytest.approx(rows.probability[row], abs=1e-6)
    assert len(seen) < 500


@pytest.mark.usefixtures("small_pieces")
def test_a_linear_model_beats_the_base_rate_with_each_kind_of_column() -> None:
    for kinds in [(4, 0, 0), (0, 4, 0), (0, 0, 4)]:
        rows = generated(schema_of(*kinds), 20_000)
        features = linear_features(rows)
        train, test = slice(15_000), slice(15_000, None)
        model = LogisticRegression(max_iter=500).fit(features[train], rows.labels[train])
        loss = log_loss(rows.labels[test], model.predict_proba(features[test])[:, 1])
        base = log_loss(rows.labels[test], np.full(5000, rows.labels[train].mean()))
        bayes = log_loss(rows.labels[test], rows.probability[test])
        assert bayes - 0.005 < loss < base - 0.1 * (base - bayes), kinds


def linear_features(rows: ColumnBlock) -> np.ndarray:
    """Return dense values, missing flags, and counts of each column's ten most frequent tokens divided by bag length."""
    bags = [Bags(values=column, offsets=np.arange(len(rows) + 1)) for column in rows.tokens.T]
    found = [rows.dense, np.isnan(rows.values)]
    for column in (*bags, *rows.bags):
        tokens, counts = np.unique(column.values, return_counts=True)
        row = np.repeat(np.arange(len(rows)), column.lengths)
        weight = 1 / column.lengths[row]
        for token in tokens[np.argsort(-counts)[:10]]:
            here = column.values == token
            found.append(np.bincount(row[here], weight[here], len(rows))[:, None])
    return np.concatenate(found, axis=1)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        next(row_blocks(EVERY_KIND, SyntheticConfig(), 0))
