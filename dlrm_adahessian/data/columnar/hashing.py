"""Tokens as numbers: text hashed to 63 bits, the same on every platform and in every version.

The hash is FNV-1a of 64 bits (Fowler, Noll, Vo; RFC 9923) over the UTF-8 bytes, of which the highest bit is dropped. A whole
number is hashed as its decimal digits, so that a token is the same from a parquet column of integers and from text. Among
10 million distinct tokens of a column two have the same hash with a chance of 5 in a million.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
from numba import njit

from dlrm_adahessian.data.rows import TokenTexts

pc: Any = pyarrow.compute  # its functions are made when it is imported, unknown to type checkers
_BASIS, _PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_BITS = np.uint64((1 << 63) - 1)


def is_text(kind: Any) -> bool:
    """Whether a type of pyarrow is one of strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def as_text(values: Any) -> Any:
    """Return a column of tokens as text.

    Args:
        values: pyarrow array of text, whole numbers, floats that are whole, or booleans.

    Returns:
        Array of strings, or a dictionary of strings.

    Raises:
        ArrowNotImplementedError: a value of the type is no token; a float that is not whole is an `ArrowInvalid`.
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
        raise pa.ArrowNotImplementedError(f"{kind} is no token")
    return values if pa.types.is_large_string(kind) else values.cast(pa.string())


def hashed(text: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """Hash text.

    Args:
        text: as `as_text` returns it.

    Returns:
        Tokens (N,), 0 where missing; and where they are missing (N,): null, or empty text.
    """
    tokens, absent, _ = hashed_with_texts(text)
    return tokens, absent


def hashed_with_texts(text: Any) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], TokenTexts]:
    """Hash text as `hashed` does, and return the texts too: those of the dictionary, or else of all rows."""
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
