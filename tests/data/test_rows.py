"""Compare bags with plain lists of lists, and check the bits of missing columns."""

import numpy as np
import pytest

from dlrm_adahessian.data.rows import Bags, Features, missing_columns, missing_words
from tests.data.bags import bags_of, lists_of

_RNG = np.random.default_rng(0)
LISTS: list[list[int]] = [
    [],
    [4],
    [7, 7, 1],
    [],
    *(_RNG.integers(9, size=size).tolist() for size in _RNG.integers(21, size=8)),
    [],
]
"""Bags of 0 to 20 values, the first and last empty, with values that repeat within and across bags."""


def test_lists_come_back():
    bags = bags_of(LISTS)
    assert lists_of(bags) == LISTS
    assert len(bags) == len(LISTS)
    assert bags.lengths.tolist() == [len(row) for row in LISTS]


@pytest.mark.parametrize(
    "rows",
    [slice(None), slice(2, 7), slice(3, 4), slice(4, 4), slice(9, 2), slice(10, 99), slice(99, 999), slice(-3, None),
     slice(None, None, 3), slice(None, None, -1)],
    ids=str,
)  # fmt: skip
def test_a_slice_is_that_of_a_list(rows: slice):
    assert lists_of(bags_of(LISTS)[rows]) == LISTS[rows]


def test_consecutive_rows_share_memory():
    bags = bags_of(LISTS)
    assert np.shares_memory(bags[2:7].values, bags.values)
    assert lists_of(bags[2:9][1:4]) == LISTS[3:6]


@pytest.mark.parametrize(
    "rows", [[], [0], [2, 2, 2], [12, 0, 5, 2, 3, 2], [-1, -2], list(range(13))[::-1]], ids=str
)
def test_gathered_rows_are_those_of_a_list(rows: list[int]):
    assert lists_of(bags_of(LISTS)[np.array(rows, np.int64)]) == [LISTS[row] for row in rows]


@pytest.mark.parametrize("row", [len(LISTS), -len(LISTS) - 1])
def test_a_row_that_is_not_there_is_refused(row: int):
    with pytest.raises(IndexError, match="out of bounds"):
        bags_of(LISTS)[np.array([0, row])]


def test_joined_rows_follow_one_another():
    parts = [LISTS[:4], [], LISTS[4:], [[]], LISTS[1:3]]
    whole = Bags.joined([bags_of(part) for part in parts])
    assert lists_of(whole) == [row for part in parts for row in part]
    assert whole.values.dtype == np.int32


def test_rows_of_features_keep_their_columns_together():
    other = [[row] * row for row in range(len(LISTS))]
    count = len(LISTS)
    features = Features(
        dense=np.arange(count, dtype=np.float32)[:, None],
        ids=np.arange(count, dtype=np.int32)[:, None] * [1, 10],
        bags=(bags_of(LISTS), bags_of(other)),
    )
    picked = [5, 2, 2, 11]
    for found, rows in (
        (features[3:8], range(3, 8)),
        (features[np.array(picked)], picked),
        (Features.joined([features[:4], features[4:4], features[4:]]), range(count)),
    ):
        assert len(found) == len(rows)
        assert found.dense[:, 0].tolist() == list(rows)
        assert found.ids.tolist() == [[row, 10 * row] for row in rows]
        assert [lists_of(bags) for bags in found.bags] == [
            [LISTS[row] for row in rows],
            [other[row] for row in rows],
        ]


def test_bits_of_missing_columns_come_back():
    words = np.array([[1, 2], [0, 0], [1 << 63, 1]], np.uint64)
    absent = missing_columns(words, 66)
    assert [np.flatnonzero(row).tolist() for row in absent] == [[0, 65], [], [63, 64]]
    assert missing_words(absent).tolist() == words.tolist()
    assert missing_columns(np.array([5], np.uint64), 3).tolist() == [[True, False, True]]
