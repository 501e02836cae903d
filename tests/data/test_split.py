"""Compare the parts with NumPy's `array_split`, which the reference implementation uses, and with splits by hand."""

import numpy as np
import pytest

from dlrm_adahessian.data.schema import SplitRule
from dlrm_adahessian.data.split import Split, split_rows
from dlrm_adahessian.errors import DataError


@pytest.mark.parametrize("rows", [14, 15, 20, 21, 70, 207_463, 45_840_617])
def test_split_is_that_of_array_split(rows: int) -> None:
    days = np.array_split(
        np.broadcast_to(np.int8(0), rows), 7
    )  # its parts are consecutive, so the lengths determine them
    ends = np.cumsum([0, *map(len, days)]).tolist()
    middle = ends[6] + len(np.array_split(days[6], 2)[0])
    split = split_rows(rows)
    assert split.days == tuple(ends)
    for part, start, stop in (
        (split.train, 0, ends[6]),
        (split.test, ends[6], middle),
        (split.val, middle, rows),
    ):
        assert start < stop
        assert (part.start, part.stop) == (start, stop)


@pytest.mark.parametrize(
    ("rows", "train", "test", "ends"),
    [
        (100, 0.8, 0.1, (80, 90)),
        (100, 0.5, None, (50, 75)),
        (70, None, 0.3, (42, 63)),
        (10, 0.55, 0.2, (6, 8)),
        (3, 0.3, 0.3, (1, 2)),
    ],
)
def test_fractions_of_the_rows(
    rows: int, train: float | None, test: float | None, ends: tuple[int, int]
) -> None:
    """By default, `train` is six sevenths of the samples that do not test, and `test` is half of those that do not train."""
    assert split_rows(rows, SplitRule(train=train, test=test)) == Split(*ends, rows)


def test_parts_that_the_rows_say() -> None:
    by_time = SplitRule(by="time", test_from=1, validation_from=2)
    assert split_rows(60, by_time, [30, 20, 10]) == Split(30, 50, 60)
    by_files = SplitRule(by="files", test_files=("b",), validation_files=("c",))
    assert split_rows(60, by_files, [30, 20, 10]) == Split(30, 50, 60)
    half = SplitRule(by="files", test_files=("b",))
    assert split_rows(51, half, [30, 21, 0]) == Split(30, 41, 51), "the last 10 of 21 test samples validate"
    assert split_rows(70, half) == split_rows(70), "a single file is split by order"


@pytest.mark.parametrize(
    ("rule", "counts", "message"),
    [
        (
            SplitRule(by="time", test_from=1, validation_from=2),
            [0, 5, 5],
            "Found 10 valid samples, but none is left for train",
        ),
        (
            SplitRule(by="time", test_from=1, validation_from=2),
            [10, 0, 0],
            r"none are left for test and val\. Change",
        ),
        (SplitRule(by="files", test_files=("b",)), [9, 1, 0], r"none is left for val\. Change"),
        (
            SplitRule(by="files", test_files=("b",), validation_files=("c",)),
            [9, 1, 0],
            "none is left for val",
        ),
        (SplitRule(train=0.9, test=0.09), None, r"none is left for val\. Change .*, or provide more data"),
    ],
)
def test_a_part_without_rows_is_refused(rule: SplitRule, counts: list[int] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_rows(10, rule, counts)


def test_parts_come_back() -> None:
    split = split_rows(100)
    assert Split.from_dict(split.asdict()) == split
