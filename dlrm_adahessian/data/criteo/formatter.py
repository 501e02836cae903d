"""Blocks of rows to Criteo text: the inverse of parser.py."""

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm_adahessian.data.schema import NO_LABEL, NUM_INTEGERS, NUM_TOKENS, RowBlock

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
_LONGEST_INTEGER = 20  # bytes: 19 digits and a sign
_LONGEST_ROW = 2 + NUM_INTEGERS * (_LONGEST_INTEGER + 1) + NUM_TOKENS * 9  # with the newline
_TAB, _NEWLINE, _MINUS, _ZERO = (np.uint8(ord(char)) for char in "\t\n-0")


def format_rows(block: RowBlock) -> bytes:
    """Return the rows as lines of 40 columns; `NO_LABEL` and what is missing are empty."""
    text = np.empty(len(block) * _LONGEST_ROW, np.uint8)
    used = _format(block.labels, block.integers, block.tokens, block.missing, text)
    return text[:used].tobytes()


@njit(cache=True, nogil=True)
def _format(
    labels: npt.NDArray[np.int8],
    integers: npt.NDArray[np.int64],
    tokens: npt.NDArray[np.uint32],
    missing: npt.NDArray[np.uint64],
    text: npt.NDArray[np.uint8],
) -> int:
    """Write the rows into `text`; return how many bytes they take."""
    at = 0
    for n in range(len(labels)):
        if labels[n] != NO_LABEL:
            text[at] = _ZERO + labels[n]
            at += 1
        for field in range(NUM_INTEGERS + NUM_TOKENS):
            text[at] = _TAB
            at += 1
            if (missing[n] >> np.uint64(field)) & np.uint64(1):
                continue
            if field < NUM_INTEGERS:
                at = _put_integer(text, at, integers[n, field])
            else:
                at = _put_token(text, at, tokens[n, field - NUM_INTEGERS])
        text[at] = _NEWLINE
        at += 1
    return at


@njit(cache=True)
def _put_integer(text: npt.NDArray[np.uint8], at: int, value: np.int64) -> int:
    magnitude = np.uint64(value)
    if value < 0:
        text[at] = _MINUS
        at += 1
        magnitude = ~magnitude + np.uint64(1)  # -2**63 has no positive counterpart in int64
    width = 1
    rest = magnitude // np.uint64(10)
    while rest:
        width += 1
        rest //= np.uint64(10)
    for k in range(width - 1, -1, -1):
        text[at + k] = _DIGITS[magnitude % np.uint64(10)]
        magnitude //= np.uint64(10)
    return at + width


@njit(cache=True)
def _put_token(text: npt.NDArray[np.uint8], at: int, token: np.uint32) -> int:
    for k in range(8):
        text[at + k] = _DIGITS[(token >> np.uint32(28 - 4 * k)) & np.uint32(15)]
    return at + 8
