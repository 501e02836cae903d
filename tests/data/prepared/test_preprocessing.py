"""Compare standardized columns with pandas, and check what is stored for them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing, scaled, scales_of
from dlrm_adahessian.data.prepared.vocabulary import Vocabulary
from dlrm_adahessian.data.rows import ColumnBlock, missing_words
from dlrm_adahessian.data.schema import from_dict


def scales(values: np.ndarray, piece: int = 1 << 16) -> np.ndarray:
    def pieces() -> Iterator[np.ndarray]:
        for first in range(0, len(values), piece):
            yield values[first : first + piece]

    return scales_of(pieces, values.shape[1])


@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("offset", [0, 1e9, -1e12])
def test_mean_and_deviation_are_those_of_pandas(offset: float, piece: int) -> None:
    """Also far from 0, where a sum of squares would lose all digits."""
    rng = np.random.default_rng(0)
    values = offset + rng.normal(size=(500, 3)) * [1, 30, 1e-2]
    values[rng.random(values.shape) < 0.3] = np.nan
    frame = pd.DataFrame(values)
    mean, deviation = scales(values, piece)
    # Each of n additions of numbers of this size is rounded by at most half a unit in the last place.
    rounded = 500 * np.spacing(np.abs(offset) + 100)
    np.testing.assert_allclose(mean, frame.mean(), rtol=0, atol=rounded)
    np.testing.assert_allclose(deviation, frame.std(ddof=0), rtol=1e-9, atol=rounded)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9 / 3, 1e-30])
@pytest.mark.parametrize("rows", [1, 3, 70_000])
def test_equal_values_are_not_blown_up(rows: int, value: float) -> None:
    """In floating point, the mean of three values 0.1 is not 0.1."""
    found = scales(np.full((rows, 1), value))
    assert found[1] == 1
    assert abs(scaled(np.array([[value]]), found)[0, 0]) <= rows * np.spacing(abs(value))
    assert scaled(np.array([[value + 2]]), found)[0, 0] == np.float32(2)


def test_a_column_without_values_keeps_what_comes_later() -> None:
    found = scales(np.full((5, 2), np.nan))
    assert found.tolist() == [[0, 0], [1, 1]]
    assert scaled(np.array([[3.0, np.nan]]), found).tolist() == [[3, 0]]
    assert scales(np.empty((0, 1))).tolist() == [[0], [1]]
    assert scales(np.empty((5, 0))) is NO_SCALES


def test_features_of_new_rows_use_what_was_learned(tmp_path: Path) -> None:
    schema = from_dict(
        {
            "label": {"column": "y"},
            "dense": [
                {"column": "a", "transform": "standardize"},
                {"column": "b"},
                {"column": "c", "transform": "standardize"},
                {"column": "d", "transform": "none"},
            ],
        }
    )
    nothing = np.empty(0, np.uint64), np.zeros(1, np.int64), np.empty(0, np.int32)
    made = Preprocessing(schema, Vocabulary(*nothing), np.array([[10.0, 0.0], [2.0, 0.5]]))
    kept = made.save(tmp_path)
    values = np.array([[12.0, 1.0, 3.0, -4.0], [np.nan, -5.0, np.nan, np.nan]])
    block = ColumnBlock(
        schema=schema,
        labels=np.zeros(2, np.int8),
        values=values,
        tokens=np.empty((2, 0), np.uint64),
        missing=missing_words(np.isnan(values)),
    )
    expected = np.array([[1, np.log(2), 6, -4], [0, 0, 0, 0]], np.float32)
    for each in (made, Preprocessing.load(tmp_path, kept)):
        found = each.features(block)
        np.testing.assert_array_equal(found.dense, expected)
        assert found.dense.dtype == np.float32
        assert found.ids.shape == (2, 0)
    assert Preprocessing.load(tmp_path, kept).schema == schema
