"""Hash the text of tokens to 63 bits, the same on every platform and in every version.

The hash is 64-bit FNV-1a (Fowler, Noll, Vo; RFC 9923) over the UTF-8 bytes, without the highest bit. Integers are hashed as
decimal digits, so a token is the same in an integer column of parquet and in text. Among 10 million distinct tokens of a
column, the probability that any two have the same hash is 5 in a million.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
from numba import njit

from dlrm_adahessian.data.rows import TokenTexts

pc: Any = pyarrow.compute  # creates its functions on import, so type checkers do not know them
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_BITS = np.uint64((1 << 63) - 1)


def is_text(kind: Any) -> bool:
    """Return whether a pyarrow type is a string type."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def as_text(values: Any) -> Any:
    """Return a column of tokens as text.

    Args:
        values: pyarrow array of text, integers, floats with integer values, or booleans.

    Returns:
        Array of strings, or dictionary array of strings.

    Raises:
        ArrowNotImplementedError: the type cannot hold tokens. A float with a fraction raises `ArrowInvalid`.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return pa.DictionaryArray.from_arrays(values.indices, as_text(values.dictionary))
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values).cast(pa.int64())
    elif not (
        pa.types.is_integer(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_null(kind)
    ):
        raise pa.ArrowNotImplementedError(f"{kind} cannot be a token")
    return values if pa.types.is_large_string(kind) else values.cast(pa.string())


def hashed(text: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Hash text.

    Args:
        text: array that `as_text` returned.

    Returns:
        Tokens (N,), 0 if missing; and which of them are missing, (N,) bool: null or empty text.
    """
    tokens, absent, _ = hashed_with_texts(text)
    return tokens, absent


def hashed_with_texts(text: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], TokenTexts]:
    """Hash text as `hashed` does, and return the texts too: those of the dictionary if there is one, else of all rows."""
    if not pa.types.is_dictionary(text.type):
        tokens, absent = _hashed(text)
        return tokens, absent, TokenTexts(tokens, text)
    tokens, absent = _hashed(text.dictionary)
    texts = TokenTexts(tokens, text.dictionary)
    if not len(tokens):
        return np.zeros(len(text), np.uint64), np.ones(len(text), np.bool_), texts
    null = text.indices.is_null().to_numpy(zero_copy_only=False)
    places = text.indices.fill_null(0).to_numpy(zero_copy_only=False)
    return np.where(null, np.uint64(0), tokens[places]), null | absent[places], texts


def _hashed(text: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    width = np.int64 if pa.types.is_large_string(text.type) else np.int32
    _, ends, data = text.buffers()
    if ends is None or not len(text):
        return np.zeros(len(text), np.uint64), np.ones(len(text), np.bool_)
    offsets = np.frombuffer(ends, width)[text.offset : text.offset + len(text) + 1]
    characters = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    absent = text.is_null().to_numpy(zero_copy_only=False) | (offsets[1:] == offsets[:-1])
    tokens = np.empty(len(text), np.uint64)
    _fnv1a(characters, offsets, absent, tokens)
    return tokens, absent


@njit(cache=True, nogil=True)
def _fnv1a(
    characters: npt.NDArray[np.uint8],
    offsets: npt.NDArray[Any],
    absent: npt.NDArray[np.bool_],
    tokens: npt.NDArray[np.uint64],
) -> None:
    for n in range(len(tokens)):
        value = _BASIS
        for at in range(offsets[n], offsets[n + 1]):
            value = (value ^ np.uint64(characters[at])) * _PRIME
        tokens[n] = np.uint64(0) if absent[n] else value & _BITS
