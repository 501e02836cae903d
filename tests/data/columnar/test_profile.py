"""Compare profiles of columns with pandas, for any batches."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dlrm_adahessian.data.columnar import profile
from dlrm_adahessian.data.columnar.profile import profile_columns

ROWS = 500


def of(values, *, rows=10**6, batch=97, type=None):
    """Return the profile of one column."""
    table = pa.table({"x": pa.array(values, type)})
    (found,) = profile_columns(iter(table.to_batches(batch)), rows=rows, plain_text=False)
    return found


def test_numbers_are_counted_as_pandas_counts_them():
    rng = np.random.default_rng(0)
    column = pd.Series(np.where(rng.random(ROWS) < 0.2, np.nan, rng.integers(-5, 90, ROWS) / 2))
    found = of(column.to_numpy())
    assert (found.rows, found.missing, found.distinct) == (ROWS, column.isna().sum(), column.nunique())
    assert (found.low, found.high, found.holds) == (column.min(), column.max(), "numbers")
    assert not found.all_different


@pytest.mark.parametrize(
    ("values", "holds"),
    [
        (["1", "", "23"], "whole"),
        (["1", "2.5", "NA"], "numbers"),
        ([1.0, None, 3.0], "whole"),
        ([True, False], "whole"),
        (["2024-01-01", "2024-01-01 10:00:00"], "times"),
        (["2024-01-01", "soon"], "text"),
        (["soon", "2024-01-01"], "text"),
        ([datetime.datetime(2024, 1, 1), None], "times"),
        (["1", "a"], "text"),
        ([None, None], "nothing"),
        (["", ""], "nothing"),
        ([{"a": 1}], "other"),
        ([b"a"], "other"),
    ],
)
@pytest.mark.parametrize("batch", [1, 100])
def test_what_values_are_follows_from_all_of_them(values, holds, batch):
    assert of(values, batch=batch).holds == holds


@pytest.mark.parametrize(
    ("values", "rising"),
    [([1, 1, 2], True), ([1, 3, 2], False), (["2024-01-01", "2024-01-02"], True), ([1, None, 2], False)],
)
@pytest.mark.parametrize("batch", [1, 100])
def test_rising_is_never_falling_over_batches_too(values, rising, batch):
    assert of(values, batch=batch).rising == rising


def test_zero_has_no_sign():
    assert of([0.0, -0.0, 0.5]).distinct == 2


def test_lists_are_counted_by_item_and_by_length():
    rng = np.random.default_rng(0)
    bags = [[f"g{item}" for item in rng.integers(0, 20, rng.integers(0, 6))] for _ in range(ROWS)]
    items = pd.Series([item for bag in bags for item in bag])
    listed = of(bags)
    assert (listed.distinct, listed.missing, listed.separator) == (
        items.nunique(),
        sum(not b for b in bags),
        None,
    )
    split = of(["|".join(bag) for bag in bags])
    assert (split.distinct, split.missing, split.separator) == (listed.distinct, listed.missing, "|")
    long = of([["a"]] * 99 + [["a"] * 50])
    assert (long.usual_length, of([["a"]] * 98 + [["a"] * 50] * 2).usual_length) == (1, 50)
    assert of(["a"] * 5).usual_length is None


@pytest.mark.parametrize(
    ("text", "separator"), [("a;b", ";"), ("a,b", ","), ("a b", " "), ("a b|c", "|"), ("ab", None)]
)
def test_a_separator_occurs_in_most_values(text, separator):
    assert of([text, text, "c"]).separator == separator
    assert of([text, "c"]).separator is None, "half is not a majority"


def test_whole_numbers_that_floats_cannot_tell_apart_are_different():
    near = [str(2**63 + n) for n in range(5)]
    assert (of(near).distinct, of(near).all_different) == (5, True)
    assert not of([*near, near[0]], batch=2).all_different


def test_more_values_than_can_be_kept_are_not_counted(monkeypatch):
    monkeypatch.setattr(profile, "MOST_DISTINCT", 100)
    found = of(np.arange(ROWS), batch=30)
    assert (found.distinct, found.all_different) == (101, True)


def test_only_the_first_rows_are_looked_at():
    found = of([0] * 150 + [1] * 100, rows=150, batch=100)
    assert (found.rows, found.distinct, found.high) == (150, 1, 0)
