"""The parts against NumPy's `array_split`, which the reference implementation cuts with."""

import numpy as np
import pytest

from dlrm_adahessian.data.split import split_rows


@pytest.mark.parametrize("rows", [14, 15, 20, 21, 70, 207_463, 45_840_617])
def test_split_is_that_of_array_split(rows: int) -> None:
    days = np.array_split(
        np.broadcast_to(np.int8(0), rows), 7
    )  # its parts follow each other, so lengths say all
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
