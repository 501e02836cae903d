"""Compare columns of all types with their values in plain Python."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_adahessian.data.columnar.columns import (
    WrongTypeError,
    as_bags,
    as_labels,
    as_numbers,
    as_times,
    as_tokens,
    as_weights,
)
from dlrm_adahessian.data.rows import NO_LABEL
from dlrm_adahessian.data.schema import BagColumn, TokenColumn
from tests.data.bags import lists_of
from tests.data.columnar.slow import fnv

NAN = math.nan


@pytest.mark.parametrize(
    ("array", "numbers"),
    [
        (pa.array([1, None, -3], pa.int32()), [1, NAN, -3]),
        (pa.array([2**64 - 1], pa.uint64()), [float(2**64 - 1)]),
        (pa.array([1.5, None, NAN], pa.float32()), [1.5, NAN, NAN]),
        (pa.array([1.5, None], pa.float16()), [1.5, NAN]),
        (pa.array([True, None, False]), [1, NAN, 0]),
        (pa.array([Decimal("1.25"), None]), [1.25, NAN]),
        (pa.nulls(2), [NAN, NAN]),
        (pa.array([], pa.float64()), []),
        (pa.array([1.5, 2.5, 1.5]).dictionary_encode(), [1.5, 2.5, 1.5]),
        (pa.array(["1", "2.5", None, "1"]).dictionary_encode(), [1, 2.5, NAN, 1]),
        (pa.array(["+1", "1.", ".5", "-.5e1", "1E+2", " 7\t"], pa.large_string()), [1, 1, 0.5, -5, 100, 7]),
        (pa.array(["", "NA", "NaN", "nan", "null", "NULL", "  "], pa.string_view()), [NAN] * 7),
        (pa.array([0.0, 1.0, 2.0, 3.0])[1:3], [1, 2]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_numbers_of_all_types(array: pa.Array, numbers: list[float]) -> None:
    found, fault = as_numbers(array)
    np.testing.assert_array_equal(found, np.array(numbers, np.float64))
    assert not fault.rows.any()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(width=32, allow_infinity=False, allow_nan=False), max_size=9))
def test_text_of_a_number_is_that_number(values: list[float]) -> None:
    np.testing.assert_array_equal(as_numbers(pa.array(list(map(repr, values)), pa.string()))[0], values)


@pytest.mark.parametrize(
    "value", ["x", "1,5", "1 2", "0x10", "1_000", "inf", "-Infinity", "1e39", "1e400", "--1", "1e", ".", "٣", math.inf,
              -math.inf, 3.5e38, -1e300]
)  # fmt: skip
def test_what_is_no_finite_number_is_a_fault(value: str | float) -> None:
    found, fault = as_numbers(pa.array([value, value, None]))
    assert fault.rows.tolist() == [True, True, False]
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    "array",
    [pa.array([0], pa.timestamp("s")), pa.array([date(2024, 1, 1)]), pa.array([[1]]), pa.array([b"1"])],
    ids=lambda array: str(array.type),
)
def test_other_types_are_no_numbers(array: pa.Array) -> None:
    with pytest.raises(WrongTypeError, match="must contain numbers, but has type"):
        as_numbers(array)


def test_labels() -> None:
    given = ["0", "1", "1.0", "", None, "2", "-1", "0.5", "yes"]
    for required in (False, True):
        labels, fault = as_labels(pa.array(given), required=required)
        assert labels.tolist() == [0, 1, 1] + [NO_LABEL] * 6
        assert labels.dtype == np.int8
        assert fault.rows.tolist() == [False] * 3 + [required] * 2 + [True] * 4
    assert as_labels(pa.array([True, False]), required=True)[0].tolist() == [1, 0]


def test_weights() -> None:
    weights, fault = as_weights(pa.array([0.0, 2.5, -0.5, None, 1e300, math.inf]))
    assert weights.tolist() == [0, 2.5, 0, 0, 0, 0]
    assert weights.dtype == np.float32
    assert fault.rows.tolist() == [False] * 2 + [True] * 4


def test_characters_are_those_of_the_text_not_its_bytes() -> None:
    words = ["14102723", "é漢字🙂x", "abc", "a", "", None, "éa漢🙂x"]
    wanted = [word[2:4] if word else "" for word in words]
    for array in (pa.array(words), pa.array(words).dictionary_encode(), pa.array([None, *words])[1:]):
        tokens, absent, texts = as_tokens(array, TokenColumn(column="t", characters=(2, 4)))
        assert tokens.tolist() == [fnv(word) if word else 0 for word in wanted]
        assert absent.tolist() == [not word for word in wanted]
        assert set(texts.texts.to_pylist()) >= set(filter(None, wanted))
        assert texts.tokens.tolist() == [fnv(text) if text else 0 for text in texts.texts.to_pylist()]
    assert as_tokens(pa.array([14102723]), TokenColumn(column="t", characters=(6, 8)))[0].tolist() == [
        fnv("23")
    ]


LISTS: list[list[Any] | None] = [["a", "b"], None, [], ["a", None, "", "c", "a"], [None], ["é"]]
TOKENS = [[fnv("a"), fnv("b")], [], [], [fnv("a"), fnv("c"), fnv("a")], [], [fnv("é")]]


@pytest.mark.parametrize("rows", [slice(None), slice(1, None), slice(3, 5), slice(0, 0)], ids=str)
@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.dictionary(pa.int8(), pa.string()))],
    ids=str,
)  # fmt: skip
def test_bags_of_lists(kind: pa.DataType, rows: slice) -> None:
    assert lists_of(as_bags(pa.array(LISTS, kind)[rows], BagColumn(column="b"))[0]) == TOKENS[rows]


def test_bags_of_numbers_and_of_lists_of_one_length() -> None:
    lists = [[7, 8], None, [2**40, None]]
    expected = [[fnv("7"), fnv("8")], [], [fnv(str(2**40))]]
    for kind in (pa.list_(pa.int64()), pa.list_(pa.int64(), 2)):
        assert lists_of(as_bags(pa.array(lists, kind), BagColumn(column="b"))[0]) == expected


@pytest.mark.parametrize("separator", ["|", ", ", "^", "."])
def test_bags_of_text(separator: str) -> None:
    text = [None if row is None else separator.join(value or "" for value in row) for row in LISTS]
    column = BagColumn(column="b", separator=separator)
    for array in (pa.array(text), pa.array(text, pa.large_string()), pa.array(text).dictionary_encode()):
        assert lists_of(as_bags(array, column)[0]) == TOKENS
        assert lists_of(as_bags(array[2:], column)[0]) == TOKENS[2:]
    assert lists_of(as_bags(pa.array([7, None]), column)[0]) == [[fnv("7")], []]


def test_max_length_takes_the_first_values_that_are_there() -> None:
    column = BagColumn(column="b", max_length=2)
    assert lists_of(as_bags(pa.array(LISTS), column)[0]) == [row[:2] for row in TOKENS]


def test_characters_of_the_values_of_bags() -> None:
    column = BagColumn(column="b", separator="|", characters=(1, 3))
    bags, texts = as_bags(pa.array(["abcd|x|yz"]), column)
    assert lists_of(bags) == [[fnv("bc"), fnv("z")]]
    assert texts.texts.to_pylist() == ["bc", "", "z"]
    assert texts.tokens.tolist() == [fnv("bc"), 0, fnv("z")]


@pytest.mark.parametrize(
    ("array", "separator", "message"),
    [
        (pa.array(["a|b"]), None, r'must contain lists, but has type string; .* separator = "\|"'),
        (pa.array([[[1]]]), None, "must contain text or integers, but has type list"),
        (pa.array([[1.5]]), None, "must contain text or integers: Float value 1.5"),
        (pa.array([{"a": 1}]), "|", "must contain text or integers, but has type struct"),
    ],
)
def test_other_values_are_no_bags(array: pa.Array, separator: str | None, message: str) -> None:
    with pytest.raises(WrongTypeError, match=message):
        as_bags(array, BagColumn(column="b", separator=separator))


def nanoseconds(time: datetime) -> int:
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000


TIME = datetime(2024, 2, 29, 23, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([TIME.replace(tzinfo=None)], pa.timestamp("ms")), TIME),
        (pa.array([TIME], pa.timestamp("us", "Asia/Tokyo")), TIME),
        (pa.array([TIME.date()]), TIME.replace(hour=0, minute=0)),
        (pa.array([TIME.date()], pa.date64()), TIME.replace(hour=0, minute=0)),
        (pa.array(["2024-02-29 23:30"]), TIME),
        (pa.array(["2024-02-29T23:30:00Z"], pa.large_string()), TIME),
        (pa.array(["2024-03-01T08:30:00+09:00"], pa.string_view()), TIME),
        (pa.array(["2024-02-29"]).dictionary_encode(), TIME.replace(hour=0, minute=0)),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_timestamps_dates_and_iso_text_are_nanoseconds_of_utc(array: pa.Array, expected: datetime) -> None:
    times, fault = as_times(array)
    assert times.tolist() == [nanoseconds(expected)]
    assert (times.dtype, fault.rows.tolist()) == (np.int64, [False])


@pytest.mark.parametrize(
    "array", [pa.array([3, 1, None]), pa.array(["3", "1.0", ""]), pa.array([3.0, 1.0, NAN])]
)
def test_numbers_are_times(array: pa.Array) -> None:
    times, fault = as_times(array)
    assert times[:2].tolist() == [3, 1]
    assert (times.dtype, fault.rows.tolist()) == (np.float64, [False, False, True])


def test_what_is_no_time_is_a_fault_of_its_row_alone() -> None:
    good = ["2024-01-01", "2024-01-01T12:00Z", "2024-01-02T00:00:00.5"]
    for bad in ["", "2024-02-30", "noon", "1", None, "0001-01-01"]:
        array = pa.array([good[0], bad, *good[1:], bad])
        times, fault = as_times(array)
        assert fault.rows.tolist() == [False, True, False, False, True]
        days = (times[[0, 2, 3]] - times[0]) / 86_400e9
        assert days.tolist() == [0, 0.5, 1 + 0.5 / 86_400]
    _, fault = as_times(pa.array(["1", "2", "2024-01-01", ""]))
    assert fault.rows.tolist() == [False, False, True, True], "most are numbers"
    sentinels = pa.array([datetime(1, 1, 1), datetime(2024, 1, 1), datetime(9999, 1, 1)], pa.timestamp("us"))
    assert as_times(sentinels)[1].rows.tolist() == [True, False, True], (
        "years out of the range of nanoseconds"
    )


def test_an_hour_of_the_day_is_no_time() -> None:
    with pytest.raises(WrongTypeError, match="has type time32"):
        as_times(pa.array([3600], pa.int32()).cast(pa.time32("s")))
