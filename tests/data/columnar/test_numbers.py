"""Read numbers of a column, from text and from numeric types."""

import math

import pyarrow as pa
import pytest

from dlrm_adahessian.data.columnar.columns import as_numbers

GOOD = ["0", "-1.5", "1e3", " 7 ", ".5", "2.", "1E-2", "", "NA", "nan", None]
NUMBERS = [0, -1.5, 1000, 7, 0.5, 2, 0.01, math.nan, math.nan, math.nan, math.nan]


@pytest.mark.parametrize(
    "odd", ["infinity", "-inf", "-nan", "NAN", "1e999", "1_000", "0x10", "1 2", "x", "1e"]
)
def test_text_is_a_finite_number_or_missing_or_bad(odd: str) -> None:
    for text in (GOOD, [odd, "3"]):
        plain = [value for value in text if value is None or value == value.strip()]
        for values in (text, plain):  # text with spaces takes another code path
            found, fault = as_numbers(pa.array(values))
            assert fault.rows.tolist() == [value == odd for value in values]
            expected = [
                math.nan if value == odd else dict(zip([*GOOD, "3"], [*NUMBERS, 3], strict=True))[value]
                for value in values
            ]
            assert found.tolist() == pytest.approx(expected, nan_ok=True, abs=0)


def test_no_text_is_no_number() -> None:
    for values in (pa.array([], pa.string()), pa.array([None, ""], pa.string())):
        found, fault = as_numbers(values)
        assert len(found) == len(values)
        assert not (found == found).any()
        assert not fault.rows.any()
