"""Compare hashes with the published test vectors of FNV-1a, and with a loop in plain Python."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlrm_adahessian.data.columnar.hashing import as_text, hashed
from tests.data.columnar.slow import fnv

PUBLISHED = {"a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}
"""From the authors' test suite, test_fnv.c."""

texts = st.lists(st.none() | st.text(max_size=9), max_size=12)


def test_hashes_are_the_published_ones_without_their_highest_bit() -> None:
    tokens, absent = hashed(pa.array(list(PUBLISHED)))
    assert tokens.tolist() == [value & (2**63 - 1) for value in PUBLISHED.values()]
    assert tokens.dtype == np.uint64
    assert not absent.any()
    assert fnv("") == 0xCBF29CE484222325 & (2**63 - 1), (
        "the hash of no bytes, which checks the loop that the other tests use"
    )


def expected(values: list[str | None]) -> tuple[list[int], list[bool]]:
    return [fnv(value) if value else 0 for value in values], [not value for value in values]


@settings(deadline=None, max_examples=60)
@given(texts, st.integers(0, 5), st.sampled_from([pa.string(), pa.large_string()]), st.booleans())
def test_any_text_in_any_array(
    values: list[str | None], first: int, kind: pa.DataType, encoded: bool
) -> None:
    array = pa.array(values, kind)
    array = (array.dictionary_encode() if encoded else array)[first:]
    tokens, absent = hashed(as_text(array))
    assert (tokens.tolist(), absent.tolist()) == expected(values[first:])


def test_a_missing_entry_of_a_dictionary_is_missing() -> None:
    array = pa.DictionaryArray.from_arrays(
        pa.array([1, None, 0, 2], pa.int8()), pa.array(["a", None, ""], pa.string())
    )
    tokens, absent = hashed(as_text(array))
    assert (tokens.tolist(), absent.tolist()) == ([0, 0, fnv("a"), 0], [True, True, False, True])


def test_hidden_bytes_of_a_missing_value_do_not_count() -> None:
    """Arrow allows any bytes in the buffer under a null."""
    whole = pa.array(["ab", "cd"])
    hidden = pa.StringArray.from_buffers(2, whole.buffers()[1], whole.buffers()[2], pa.py_buffer(b"\x01"))
    assert hidden.to_pylist() == ["ab", None]
    tokens, absent = hashed(hidden)
    assert (tokens.tolist(), absent.tolist()) == ([fnv("ab"), 0], [False, True])


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (pa.array([0, -5, None], pa.int32()), ["0", "-5", None]),
        (pa.array([2**63 - 1, -(2**63)], pa.int64()), ["9223372036854775807", "-9223372036854775808"]),
        (pa.array([2**64 - 1], pa.uint64()), ["18446744073709551615"]),
        (pa.array([3.0, -0.0, float("nan"), None, 1e15], pa.float64()), ["3", "0", None, None, "1000000000000000"]),
        (pa.array([3.0, None], pa.float32()), ["3", None]),
        (pa.array([True, False, None]), ["true", "false", None]),
        (pa.array(["é", None], pa.string_view()), ["é", None]),
        (pa.nulls(2), [None, None]),
        (pa.array([], pa.string()), []),
        (pa.array([7, 8, 7]).dictionary_encode(), ["7", "8", "7"]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_numbers_are_hashed_as_their_digits(array: pa.Array, text: list[str | None]) -> None:
    tokens, absent = hashed(as_text(array))
    assert (tokens.tolist(), absent.tolist()) == expected(text)


@pytest.mark.parametrize(
    "array",
    [pa.array([1.5]), pa.array([1e19]), pa.array([[1]]), pa.array([b"a"]), pa.array([0], pa.timestamp("s"))],
    ids=lambda array: str(array.type),
)
def test_other_values_are_no_tokens(array: pa.Array) -> None:
    with pytest.raises((pa.ArrowInvalid, pa.ArrowNotImplementedError)):
        as_text(array)
