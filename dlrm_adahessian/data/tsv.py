# pyright: basic
r"""Raw Criteo lines to row blocks, and back.

A line is a label, 13 integers and 26 tokens of 8 hexadecimal digits, separated by tabs; an integer or token may be
empty, which means missing. Lines end in \n or \r\n, and a byte order mark may stand at the start of a file. Everything
else is a bad line: no general CSV reader refuses all of them, and several fill short lines up silently.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import numba
import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import COLUMN_NAMES, NO_LABEL, NUM_INTEGERS, NUM_TOKENS, RowBlock
from dlrm_adahessian.data.sources import Source, damaged_gzip
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.storage import storage_errors

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 64 << 20
_BOM = b"\xef\xbb\xbf"
_SHOWN = 40  # characters of a bad value in its message
_THREADS = 2

_BLANK, _TOO_FEW, _TOO_MANY, _LABEL, _INTEGER, _TOO_LARGE, _TOKEN = range(7)
_REASONS = {
    _BLANK: "the line is blank",
    _TOO_FEW: "too few columns",
    _TOO_MANY: "too many columns",
    _LABEL: "a label is 0 or 1",
    _INTEGER: "an integer is decimal digits, with a minus or without, or empty",
    _TOO_LARGE: "an integer lies within 64 bits",
    _TOKEN: "a token is exactly 8 hexadecimal digits, or empty",
}
_Bytes = npt.NDArray[np.uint8]

_NIBBLE = np.full(256, 255, np.uint8)
for _digit in range(16):
    _NIBBLE[ord(f"{_digit:x}")] = _NIBBLE[ord(f"{_digit:X}")] = _digit


@dataclass
class BadLines:
    """What happens to bad lines: the first one is an error, or all are set aside.

    Attributes:
        quarantine: file that collects the bytes of bad lines unchanged; None makes the first one an error.
        count: bad lines so far.
    """

    quarantine: Path | None = None
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._file: IO[bytes] | None = None
        if self.quarantine is not None:
            with storage_errors(self.quarantine):
                self._file = self.quarantine.open("wb")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file is not None:
            with storage_errors(self.quarantine or Path()):
                self._file.close()

    def take(
        self, name: str, first_line: int, columns: int, block: _Bytes, bad: npt.NDArray[np.int64]
    ) -> None:
        """Deal with the bad lines of a block.

        Args:
            name: of the source.
            first_line: number of the block's first line, from 1.
            columns: of the source, 39 or 40.
            block: the bytes.
            bad: (n, 7) line, its start and end, reason, column, start and end of the value.

        Raises:
            DataError: there is one, and nothing to set it aside in.
        """
        if self._file is None and len(bad):
            line, start, end, reason, column, value_start, value_end = (int(x) for x in bad[0])
            named = COLUMN_NAMES[len(COLUMN_NAMES) - columns :]
            where = f" ({named[column]})" if column < columns else ""
            if reason in (_BLANK, _TOO_FEW, _TOO_MANY):
                value_start, value_end = start, end
            value = bytes(block[value_start : min(value_end, value_start + _SHOWN)]).decode("latin-1")
            expected = f", expected {columns}" if reason in (_TOO_FEW, _TOO_MANY) else ""
            raise DataError(
                f"{name}:{first_line + line}:{column + 1}:{where} {_REASONS[reason]}{expected}, found {value!r}"
                f"{'...' if value_end - value_start > _SHOWN else ''}; mend the line, or set bad lines aside with "
                "--bad-rows quarantine"
            )
        for row in bad:
            with storage_errors(self.quarantine or Path()):
                self._file.write(block[row[1] : row[2]].tobytes())  # type: ignore[union-attr]
        self.count += len(bad)


@dataclass(frozen=True)
class _Parsed:
    rows: RowBlock
    lines: int
    bad: npt.NDArray[np.int64]


def read_rows(
    source: Source,
    bad_lines: BadLines,
    *,
    labels: Literal["required", "optional"] = "required",
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[RowBlock]:
    """Parse a source in blocks; blocks are parsed side by side and come in order.

    Args:
        source: the raw lines.
        bad_lines: what happens to bad ones.
        labels: with "optional" an empty label is `NO_LABEL`, and a first line of 39 columns means that the source
            has no column of labels.
        block_bytes: how much is read at once.

    Yields:
        The rows, time order kept; blocks without rows are left out.

    Raises:
        DataError: the source is empty or damaged, or a line is bad and `bad_lines` says so.
    """
    columns, first_line = 0, 1
    with ThreadPoolExecutor(_THREADS) as pool:
        pending: deque[tuple[_Bytes, Future[_Parsed]]] = deque()

        def finish() -> RowBlock:
            nonlocal first_line
            block, future = pending.popleft()
            parsed = future.result()
            bad_lines.take(source.name, first_line, columns, block, parsed.bad)
            first_line += parsed.lines
            return parsed.rows

        for block in _line_blocks(source, block_bytes):
            if not columns:
                columns = _count_columns(block) if labels == "optional" else len(COLUMN_NAMES)
            pending.append((block, pool.submit(_parse, block, columns, labels == "optional")))
            if len(pending) > _THREADS and len(rows := finish()):
                yield rows
        while pending:
            if len(rows := finish()):
                yield rows
    if not columns:
        raise DataError(f"{source.name} is empty; name a file with rows")


def _line_blocks(source: Source, block_bytes: int) -> Iterator[_Bytes]:
    """Yield the bytes in blocks of whole lines; only the last may lack its line end."""
    rest = b""
    first = True
    while True:
        with damaged_gzip(source.name):
            read = source.stream.read(block_bytes)
        if first:
            while 0 < len(read) < len(_BOM) and (more := source.stream.read(block_bytes)):
                read += more
            read, first = read.removeprefix(_BOM), False
        data = rest + read
        cut = len(data) if not read else data.rfind(b"\n") + 1
        if cut:
            yield np.frombuffer(data[:cut], np.uint8)
        rest = data[cut:]
        if not read:
            return
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(
                f"{source.name}: a line has at most {MAX_LINE_BYTES} bytes, and one has more; this is no file of rows"
            )


def _count_columns(block: _Bytes) -> int:
    ends = np.flatnonzero(block == ord("\n"))
    line = block[: ends[0]] if len(ends) else block
    without_label = len(COLUMN_NAMES) - 1
    return without_label if np.count_nonzero(line == ord("\t")) + 1 == without_label else len(COLUMN_NAMES)


def _parse(block: _Bytes, columns: int, optional_labels: bool) -> _Parsed:
    lines = int(np.count_nonzero(block == ord("\n"))) + int(block[-1] != ord("\n"))
    labels = np.empty(lines, np.int8)
    integers = np.empty((lines, NUM_INTEGERS), np.int64)
    tokens = np.empty((lines, NUM_TOKENS), np.uint32)
    missing = np.empty(lines, np.uint64)
    bad = np.empty((lines, 7), np.int64)
    labelled = columns == len(COLUMN_NAMES)
    rows, num_bad = _parse_lines(
        block, labelled, optional_labels, _NIBBLE, labels, integers, tokens, missing, bad
    )
    kept = RowBlock(
        labels=labels[:rows], integers=integers[:rows], tokens=tokens[:rows], missing=missing[:rows]
    )
    return _Parsed(kept, lines, bad[:num_bad].copy())


@numba.njit(cache=True, nogil=True)
def _parse_lines(block, labelled, optional_labels, nibble, labels, integers, tokens, missing, bad):
    size = len(block)
    columns = 1 + NUM_INTEGERS + NUM_TOKENS
    first_column = 0 if labelled else 1
    rows, num_bad, line, start = 0, 0, 0, 0
    while start < size:
        # `at` walks through the line; a field ends at a tab, at the line end, or at the end of the block.
        at, column, reason = start, first_column, -1
        value_start = start
        absent = np.uint64(0)
        if not labelled:
            labels[rows] = NO_LABEL
        if block[start] == 10 or (block[start] == 13 and (start + 1 == size or block[start + 1] == 10)):
            reason = _BLANK
        while reason < 0:
            value_start = at
            if column == 0:
                if at < size and (block[at] == 48 or block[at] == 49):
                    labels[rows] = block[at] - 48
                    at += 1
                elif optional_labels and at < size and block[at] == 9:
                    labels[rows] = NO_LABEL
                else:
                    reason = _LABEL
            elif column <= NUM_INTEGERS:
                negative = at < size and block[at] == 45
                if negative:
                    at += 1
                value, digits = np.uint64(0), 0
                limit = np.uint64(9223372036854775807) + np.uint64(negative)
                while at < size and 48 <= block[at] <= 57:
                    digit = np.uint64(block[at] - 48)
                    if value > (limit - digit) // np.uint64(10):
                        reason = _TOO_LARGE
                    value = value * np.uint64(10) + digit
                    digits += 1
                    at += 1
                if digits == 0:
                    if negative:
                        reason = _INTEGER
                    absent |= np.uint64(1) << np.uint64(column - 1)
                integers[rows, column - 1] = -np.int64(value) if negative else np.int64(value)
            else:
                token, digits = np.uint32(0), 0
                while at < size and nibble[block[at]] < 16 and digits < 9:
                    token = (token << np.uint32(4)) | np.uint32(nibble[block[at]])
                    digits += 1
                    at += 1
                if digits == 0:
                    absent |= np.uint64(1) << np.uint64(column - 1)
                elif digits != 8:
                    reason = _TOKEN
                tokens[rows, column - 1 - NUM_INTEGERS] = token
            if reason >= 0:
                break
            ended = (
                at == size or block[at] == 10 or (block[at] == 13 and (at + 1 == size or block[at + 1] == 10))
            )
            if ended:
                if column < columns - 1:
                    reason = _TOO_FEW
                break
            if block[at] != 9:
                reason = _LABEL if column == 0 else _INTEGER if column <= NUM_INTEGERS else _TOKEN
            elif column == columns - 1:
                reason = _TOO_MANY
            else:
                at += 1
                column += 1
        if reason < 0:
            missing[rows] = absent
            rows += 1
            start = min(size, at + (2 if at < size and block[at] == 13 else 1))
        else:
            while at < size and block[at] != 10 and block[at] != 9:
                at += 1
            value_end = at
            while at < size and block[at] != 10:
                at += 1
            end = min(size, at + 1)
            bad[num_bad, 0], bad[num_bad, 1], bad[num_bad, 2], bad[num_bad, 3] = line, start, end, reason
            bad[num_bad, 4], bad[num_bad, 5], bad[num_bad, 6] = column - first_column, value_start, value_end
            num_bad += 1
            start = end
        line += 1
    return rows, num_bad


def format_rows(block: RowBlock) -> bytes:
    """Return the rows as raw lines of 40 columns; `NO_LABEL` and missing values are empty."""
    out = np.empty(len(block) * (3 + 21 * NUM_INTEGERS + 9 * NUM_TOKENS), np.uint8)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    used = _format(block.labels, block.integers, block.tokens, block.missing, digits, out)
    return out[:used].tobytes()


@numba.njit(cache=True, nogil=True)
def _format(labels, integers, tokens, missing, digits, out):
    at = 0
    reversed_digits = np.empty(20, np.uint8)
    for n in range(len(labels)):
        if labels[n] >= 0:
            out[at] = 48 + labels[n]
            at += 1
        for i in range(NUM_INTEGERS + NUM_TOKENS):
            out[at] = 9
            at += 1
            if (missing[n] >> np.uint64(i)) & np.uint64(1):
                continue
            if i < NUM_INTEGERS:
                value = integers[n, i]
                if value < 0:
                    out[at] = 45
                    at += 1
                size = 0
                while True:
                    reversed_digits[size] = digits[abs(value % 10 if value >= 0 else (-value) % 10)]
                    value = value // 10 if value >= 0 else -((-value) // 10)
                    size += 1
                    if value == 0:
                        break
                for k in range(size):
                    out[at] = reversed_digits[size - 1 - k]
                    at += 1
            else:
                token = tokens[n, i - NUM_INTEGERS]
                for k in range(8):
                    out[at] = digits[(token >> np.uint32(28 - 4 * k)) & np.uint32(15)]
                    at += 1
        out[at] = 10
        at += 1
    return at
