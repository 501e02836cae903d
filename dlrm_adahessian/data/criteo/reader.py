"""Criteo text to blocks of rows, at about the speed of the disk, refusing every line that is not a row.

A row is a label, 13 integers and 26 tokens of 8 hexadecimal digits, separated by tabs; an empty integer
or token is missing. Line ends are LF or CRLF, the last one may be absent, and a byte order mark may open
a file. Everything else is a bad line. Text is read in blocks; what follows a block's last newline waits
for the next one, so memory depends on the block and not on the input.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dlrm_adahessian.data.criteo.bad_lines import MAX_LINE, BadLines, find_fault
from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, CriteoBlock
from dlrm_adahessian.data.criteo.text import PADDING, Columns, parse_lines
from dlrm_adahessian.data.text.sources import Source

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SHORTEST_ROW = len(COLUMN_NAMES) - 1  # bytes: 38 tabs and a newline, all empty, no label column
_BAD_LINES = 4096  # bad lines that one call of the kernel may find


@dataclass
class _Place:
    """How far the reading of a source has come, and what its columns are."""

    name: str
    empty_label: bool
    labelled: bool = True
    line: int = 0  # lines read

    def explain(self, raw: bytes, line: int) -> str:
        """Say file:line:column and why `raw` is bad."""
        fault = find_fault(raw, labelled=self.labelled, empty_label=self.empty_label)
        return f"{self.name}:{line}:{fault.column}: {fault}"


def read_rows(
    source: Source,
    bad_lines: BadLines,
    *,
    labels: Literal["required", "optional"] = "required",
    block_bytes: int = 4 << 20,
    limit: int | None = None,
) -> Iterator[CriteoBlock]:
    """Parse the rows of a source in order.

    Args:
        source: the text.
        bad_lines: takes the bad lines, and may refuse them with a `DataError`.
        labels: with `optional`, a first line of 39 columns says that the source has no label column, and an
            empty label in 40 columns is one row without.
        block_bytes: text read at a time; changes no row.
        limit: good rows after which to stop; None reads to the end.

    Yields:
        Blocks that are not empty.
    """
    place = _Place(source.name, empty_label=labels == "optional")
    undecided = labels == "optional"
    for text in _whole_lines(source, block_bytes, place, bad_lines):
        if undecided:
            place.labelled = text.partition(b"\n")[0].count(b"\t") != len(COLUMN_NAMES) - 2
            undecided = False
        for block in _parse_text(text, place, bad_lines, limit):
            yield block
            limit = None if limit is None else limit - len(block)
        if limit == 0:
            return


def _whole_lines(source: Source, block_bytes: int, place: _Place, bad_lines: BadLines) -> Iterator[bytes]:
    """Cut a source into blocks of whole lines; a line too long to keep goes to `bad_lines` piece by piece."""
    rest = b""
    too_long = False
    for data in _pieces(source, block_bytes):
        if too_long:
            tail, newline, data = data.partition(b"\n")
            bad_lines.extend(tail + newline)
            too_long = not newline
        cut = data.rfind(b"\n") + 1
        if cut:
            yield rest + data[:cut]
            rest = b""
        rest += data[cut:]
        if len(rest) > MAX_LINE:
            _reject(rest, place, bad_lines, line=1)
            place.line += 1
            rest, too_long = b"", True
    if rest:
        yield rest


def _pieces(source: Source, block_bytes: int) -> Iterator[bytes]:
    """Read a source to its end, without the byte order mark that may open it."""
    head = b""
    while len(head) < len(_BYTE_ORDER_MARK) and (data := source.read(len(_BYTE_ORDER_MARK) - len(head))):
        head += data
    yield head.removeprefix(_BYTE_ORDER_MARK)
    while data := source.read(block_bytes):
        yield data


def _parse_text(text: bytes, place: _Place, bad_lines: BadLines, room: int | None) -> Iterator[CriteoBlock]:
    """Parse whole lines until `room` rows are found."""
    padded = np.frombuffer(text + PADDING, np.uint8)
    end = len(text) + (not text.endswith(b"\n"))
    bad = np.empty((_BAD_LINES, 3), np.int64)
    start = 0
    while start < end and room != 0:
        fit = (end - start) // _SHORTEST_ROW + 1
        columns = Columns.with_room_for(fit if room is None else min(fit, room))
        start, rows, bads = parse_lines(padded, start, end, place.labelled, place.empty_label, columns, bad)
        for first, stop, line in bad[:bads].tolist():
            _reject(text[first:stop], place, bad_lines, line)
        place.line += rows + bads
        room = None if room is None else room - rows
        if rows:
            yield CriteoBlock(
                labels=columns.labels[:rows],
                integers=columns.integers[:rows],
                tokens=columns.tokens[:rows],
                missing=columns.missing[:rows],
            )


def _reject(raw: bytes, place: _Place, bad_lines: BadLines, line: int) -> None:
    """Hand over a bad line, `line` lines after those that `place` counts."""
    number = place.line + line
    bad_lines.reject(raw, lambda: place.explain(raw, number))
