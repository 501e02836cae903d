"""Convert Criteo text to columns and back, in compiled loops.

The parser reads each line once. It checks no bounds, because a newline stops every loop: the caller ends the text with
one, and appends enough bytes to read a token past it. This module only finds which lines are bad; `faults` explains why.
"""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm_adahessian.data.criteo.columns import NUM_INTEGERS, NUM_TOKENS, CriteoBlock
from dlrm_adahessian.data.criteo.faults import MAX_LINE
from dlrm_adahessian.data.rows import NO_LABEL

PADDING = b"\n" + bytes(8)
"""The caller appends this to the text that `parse_lines` reads."""

_TAB, _NEWLINE, _RETURN, _MINUS, _ZERO = (np.uint8(ord(char)) for char in "\t\n\r-0")
_HEX = np.full(256, 255, np.uint8)  # byte to digit
_HEX[np.frombuffer(b"0123456789ABCDEF", np.uint8)] = np.arange(16)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8).copy()
_LONGEST_INTEGER = 20  # bytes: 19 digits and a sign
_LONGEST_ROW = 2 + NUM_INTEGERS * (_LONGEST_INTEGER + 1) + NUM_TOKENS * 9  # with the newline


class Columns(NamedTuple):
    """Preallocated columns of a `CriteoBlock`."""

    labels: npt.NDArray[np.int8]
    integers: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint32]
    missing: npt.NDArray[np.uint64]

    @classmethod
    def with_room_for(cls, rows: int) -> Self:
        """Allocate columns. Unused pages take no memory."""
        return cls(
            labels=np.empty(rows, np.int8),
            integers=np.empty((rows, NUM_INTEGERS), np.int64),
            tokens=np.empty((rows, NUM_TOKENS), np.uint32),
            missing=np.empty(rows, np.uint64),
        )


@njit(cache=True, nogil=True)
def parse_lines(
    text: npt.NDArray[np.uint8],
    start: int,
    end: int,
    labelled: bool,
    empty_label: bool,
    columns: Columns,
    bad: npt.NDArray[np.int64],
) -> tuple[int, int, int]:
    """Parse text[start:end], which ends with a newline, until its end or until the outputs are full.

    Args:
        text: (T,) bytes, at least 8 of them after `end`.
        start: offset at which a line begins.
        end: offset just after a newline.
        labelled: the first column is the label.
        empty_label: the label may be empty.
        columns: output, filled with the good lines.
        bad: (K, 3) output, filled with start, end, and 1-based number of the bad lines.

    Returns:
        Offset of the next line, number of good lines, and number of bad lines.
    """
    rows = 0
    bads = 0
    while start < end and rows < len(columns.labels) and bads < len(bad):
        after = _parse_line(text, start, labelled, empty_label, columns, rows)
        if after >= 0 and after - start <= MAX_LINE + 1:
            rows += 1
        else:
            after = start
            while text[after] != _NEWLINE:
                after += 1
            after += 1
            bads += 1
            bad[bads - 1, 0] = start
            bad[bads - 1, 1] = after
            bad[bads - 1, 2] = rows + bads
        start = after
    return start, rows, bads


@njit(cache=True)
def _parse_line(
    text: npt.NDArray[np.uint8], at: int, labelled: bool, empty_label: bool, columns: Columns, row: int
) -> int:
    """Parse the line at `at` into `row`. Return the offset of the next line, -1 if this one is bad."""
    columns.labels[row] = NO_LABEL
    columns.missing[row] = 0
    if labelled:
        at = _parse_label(text, at, empty_label, columns, row)
    if at >= 0:
        at = _parse_integers(text, at, columns, row)
    if at >= 0:
        at = _parse_tokens(text, at, columns, row)
    if at < 0:
        return -1
    if text[at] == _RETURN:
        at += 1
    return at + 1 if text[at] == _NEWLINE else -1


@njit(cache=True)
def _parse_label(text: npt.NDArray[np.uint8], at: int, empty_label: bool, columns: Columns, row: int) -> int:
    """Parse the label and the tab after it. Return the offset of the integers, -1 if the label is bad."""
    digit = text[at] ^ _ZERO
    if digit <= 1:
        columns.labels[row] = digit
        at += 1
    elif not empty_label:
        return -1
    return at + 1 if text[at] == _TAB else -1


@njit(cache=True)
def _parse_integers(text: npt.NDArray[np.uint8], at: int, columns: Columns, row: int) -> int:
    """Parse the integers, each with the tab after it. Return the offset of the tokens, -1 if an integer is bad."""
    for i in range(NUM_INTEGERS):
        value = np.int64(0)
        if text[at] == _TAB:
            columns.missing[row] |= np.uint64(1) << np.uint64(i)
        else:
            value, at = _integer(text, at)
        columns.integers[row, i] = value
        if text[at] != _TAB:
            return -1
        at += 1
    return at


@njit(cache=True)
def _parse_tokens(text: npt.NDArray[np.uint8], at: int, columns: Columns, row: int) -> int:
    """Parse the tokens. Return the end of the last one, -1 if an earlier one is bad."""
    for j in range(NUM_TOKENS):
        if j > 0:
            if text[at] != _TAB:
                return -1
            at += 1
        token = np.uint32(0)
        if _HEX[text[at]] > 15:
            columns.missing[row] |= np.uint64(1) << np.uint64(NUM_INTEGERS + j)
        else:
            token, at = _token(text, at)
        columns.tokens[row, j] = token
    return at


@njit(cache=True)
def _integer(text: npt.NDArray[np.uint8], at: int) -> tuple[np.int64, int]:
    """Return the integer at `at` and its end. A bad one ends where it begins, which is not at a tab."""
    negative = text[at] == _MINUS
    first = at + 1 if negative else at
    after = first
    while text[after] == _ZERO:
        after += 1
    significant = after
    magnitude = np.uint64(0)
    digit = text[after] - _ZERO
    while digit <= 9:
        magnitude = magnitude * np.uint64(10) + np.uint64(digit)
        after += 1
        digit = text[after] - _ZERO
    # 19 digits fit in an unsigned 64-bit integer; more may have wrapped around.
    largest = np.uint64(2**63 - 1) + np.uint64(negative)
    if after == first or after - significant > 19 or magnitude > largest:
        return np.int64(0), at
    value = np.int64(magnitude)
    return (-value if negative else value), after


@njit(cache=True)
def _token(text: npt.NDArray[np.uint8], at: int) -> tuple[np.uint32, int]:
    """Return the token of 8 hexadecimal digits at `at` and its end. A bad one ends where it begins."""
    token = np.uint32(0)
    seen = np.uint8(0)
    for k in range(8):
        digit = _HEX[text[at + k]]
        seen |= digit
        token = (token << np.uint32(4)) | np.uint32(digit)
    return token, (at + 8 if seen <= 15 else at)


def format_rows(block: CriteoBlock) -> bytes:
    """Return samples as lines of 40 columns. `NO_LABEL` and missing values become empty fields."""
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
    """Write samples into `text`, and return the number of bytes written."""
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
