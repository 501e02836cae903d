"""Criteo text to blocks of rows, at about the speed of the disk, refusing every line that is not a row.

A row is a label, 13 integers and 26 tokens of 8 hexadecimal digits, separated by tabs; an empty integer
or token is missing. Line ends are LF or CRLF, the last one may be absent, and a byte order mark may open
a file. Everything else is a bad line. Text is read in blocks; what follows a block's last newline waits
for the next one, so memory depends on the block and not on the input.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm_adahessian.data.bad_rows import MAX_LINE, BadRows, find_fault
from dlrm_adahessian.data.schema import COLUMN_NAMES, NO_LABEL, NUM_INTEGERS, NUM_TOKENS, RowBlock
from dlrm_adahessian.data.sources import ByteStream

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHORTEST_ROW = len(COLUMN_NAMES) - 1  # bytes: 38 tabs and a newline, all empty, no label column
_BAD_LINES = 4096  # bad lines that one call of the kernel may find
_PADDING = b"\n" + bytes(8)  # ends a last line without newline; a token may be read 8 bytes past it

_TAB, _NEWLINE, _RETURN, _MINUS, _ZERO = (np.uint8(ord(char)) for char in "\t\n\r-0")
_HEX = np.full(256, 255, np.uint8)  # byte to digit
_HEX[np.frombuffer(b"0123456789ABCDEF", np.uint8)] = np.arange(16)
_HEX[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


class _Columns(NamedTuple):
    """Room for rows; the columns of a `RowBlock`."""

    labels: npt.NDArray[np.int8]
    integers: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint32]
    missing: npt.NDArray[np.uint64]


@dataclass
class _Place:
    """How far the reading of one stream has come, and what its columns are."""

    name: str
    labelled: bool
    empty_label: bool
    line: int = 0  # lines read

    def explain(self, raw: bytes, line: int) -> str:
        """Say file:line:column and why `raw` is bad."""
        fault = find_fault(raw, labelled=self.labelled, empty_label=self.empty_label)
        return f"{self.name}:{line}:{fault.column}: {fault}"


def read_rows(
    streams: Iterable[ByteStream],
    *,
    on_bad: BadRows,
    labels: Literal["required", "optional"] = "required",
    block_bytes: int = 4 << 20,
    limit: int | None = None,
) -> Iterator[RowBlock]:
    """Parse the rows of an input in order.

    Args:
        streams: the files of the input.
        on_bad: takes the bad lines.
        labels: with `optional`, a first line of 39 columns says that the whole input has no label column,
            and an empty label in 40 columns is one row without.
        block_bytes: text read at a time; changes no row.
        limit: good rows after which to stop; None reads to the end.

    Yields:
        Blocks that are not empty.

    Raises:
        DataError: a file can't be decoded, or `on_bad` refuses a line.
    """
    optional = labels == "optional"
    labelled = None if optional else True
    room = limit
    for stream in streams:
        place = _Place(stream.name, labelled=True, empty_label=optional)
        for text in _whole_lines(stream, block_bytes, place, on_bad):
            if labelled is None:
                labelled = text.partition(b"\n")[0].count(b"\t") != len(COLUMN_NAMES) - 2
            place.labelled = labelled
            for block in _parse_text(text, place, on_bad, room):
                yield block
                room = None if room is None else room - len(block)
            if room == 0:
                return


def _whole_lines(stream: ByteStream, block_bytes: int, place: _Place, on_bad: BadRows) -> Iterator[bytes]:
    """Cut a stream into blocks of whole lines; a line too long to keep goes to `on_bad` piece by piece."""
    rest = b""
    too_long = False
    for data in _pieces(stream, block_bytes):
        if too_long:
            tail, newline, data = data.partition(b"\n")
            on_bad.extend(tail + newline)
            too_long = not newline
        cut = data.rfind(b"\n") + 1
        if cut:
            yield rest + data[:cut]
            rest = b""
        rest += data[cut:]
        if len(rest) > MAX_LINE:
            _reject(rest, place, on_bad, line=1)
            place.line += 1
            rest, too_long = b"", True
    if rest:
        yield rest


def _pieces(stream: ByteStream, block_bytes: int) -> Iterator[bytes]:
    """Read a stream to its end, without the byte order mark that may open it."""
    head = b""
    while len(head) < len(_BYTE_ORDER_MARK) and (data := stream.read(len(_BYTE_ORDER_MARK) - len(head))):
        head += data
    yield head.removeprefix(_BYTE_ORDER_MARK)
    while data := stream.read(block_bytes):
        yield data


def _parse_text(text: bytes, place: _Place, on_bad: BadRows, room: int | None) -> Iterator[RowBlock]:
    """Parse whole lines until `room` rows are found."""
    padded = np.frombuffer(text + _PADDING, np.uint8)
    end = len(text) + (not text.endswith(b"\n"))
    bad = np.empty((_BAD_LINES, 3), np.int64)
    start = 0
    while start < end and room != 0:
        fit = (end - start) // _SHORTEST_ROW + 1
        columns = _room_for(fit if room is None else min(fit, room))
        start, rows, bads = _parse(padded, start, end, place.labelled, place.empty_label, columns, bad)
        for first, stop, line in bad[:bads].tolist():
            _reject(text[first:stop], place, on_bad, line)
        place.line += rows + bads
        room = None if room is None else room - rows
        if rows:
            yield RowBlock(
                labels=columns.labels[:rows],
                integers=columns.integers[:rows],
                tokens=columns.tokens[:rows],
                missing=columns.missing[:rows],
            )


def _reject(raw: bytes, place: _Place, on_bad: BadRows, line: int) -> None:
    """Hand over a bad line, `line` lines after those that `place` counts."""
    number = place.line + line
    on_bad.reject(raw, lambda: place.explain(raw, number))


def _room_for(rows: int) -> _Columns:
    return _Columns(
        labels=np.empty(rows, np.int8),
        integers=np.empty((rows, NUM_INTEGERS), np.int64),
        tokens=np.empty((rows, NUM_TOKENS), np.uint32),
        missing=np.empty(rows, np.uint64),
    )


@njit(cache=True, nogil=True)
def _parse(
    text: npt.NDArray[np.uint8],
    start: int,
    end: int,
    labelled: bool,
    empty_label: bool,
    columns: _Columns,
    bad: npt.NDArray[np.int64],
) -> tuple[int, int, int]:
    """Parse text[start:end], which ends with a newline, until it or the room for rows or bad lines is used up.

    Args:
        text: (T,) bytes; 8 more follow `end`.
        start: where a line begins.
        end: just after a newline.
        labelled: the first column is the label.
        empty_label: the label may be empty.
        columns: filled with the good lines.
        bad: (K, 3) filled with start, end and 1-based number of the bad lines.

    Returns:
        Where the next line begins, number of rows, number of bad lines.
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
    text: npt.NDArray[np.uint8], at: int, labelled: bool, empty_label: bool, columns: _Columns, row: int
) -> int:
    """Parse the line at `at` into `row`; return where the next line begins, -1 when this one is bad."""
    columns.labels[row] = NO_LABEL
    if labelled:
        digit = text[at] ^ _ZERO
        if digit <= 1:
            columns.labels[row] = digit
            at += 1
        elif not empty_label:
            return -1
        if text[at] != _TAB:
            return -1
        at += 1
    missing = np.uint64(0)
    for i in range(NUM_INTEGERS):
        value = np.int64(0)
        if text[at] == _TAB:
            missing |= np.uint64(1) << np.uint64(i)
        else:
            value, at = _integer(text, at)
        columns.integers[row, i] = value
        if text[at] != _TAB:
            return -1
        at += 1
    at -= 1
    for j in range(NUM_TOKENS):
        # Before a token stands a tab, after the last one a line end: a bad token fails the next test.
        if text[at] != _TAB:
            return -1
        at += 1
        token = np.uint32(0)
        if _HEX[text[at]] > 15:
            missing |= np.uint64(1) << np.uint64(NUM_INTEGERS + j)
        else:
            token, at = _token(text, at)
        columns.tokens[row, j] = token
    columns.missing[row] = missing
    if text[at] == _RETURN:
        at += 1
    return at + 1 if text[at] == _NEWLINE else -1


@njit(cache=True)
def _integer(text: npt.NDArray[np.uint8], at: int) -> tuple[np.int64, int]:
    """Return the integer at `at` and where it ends; a bad one ends where it begins, so at no tab."""
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
    # 19 digits fit 64 bits without a sign, more may have wrapped around.
    largest = np.uint64(2**63 - 1) + np.uint64(negative)
    if after == first or after - significant > 19 or magnitude > largest:
        return np.int64(0), at
    value = np.int64(magnitude)
    return (-value if negative else value), after


@njit(cache=True)
def _token(text: npt.NDArray[np.uint8], at: int) -> tuple[np.uint32, int]:
    """Return the 8 hexadecimal digits at `at` and where they end; bad ones end where they begin."""
    token = np.uint32(0)
    seen = np.uint8(0)
    for k in range(8):
        digit = _HEX[text[at + k]]
        seen |= digit
        token = (token << np.uint32(4)) | np.uint32(digit)
    return token, (at + 8 if seen <= 15 else at)
