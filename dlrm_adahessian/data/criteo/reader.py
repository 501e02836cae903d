"""Read Criteo text to blocks of samples at about disk speed, and reject every invalid line.

A valid line has a label, 13 integers, and 26 tokens of 8 hexadecimal digits, separated by tabs; an empty integer
or token is missing. Line ends are LF or CRLF, the last one is optional, and a file may begin with a byte order
mark. Every other line is bad. Text is read in blocks, and the rest after a block's last newline is carried over
to the next block. So memory depends on the block size, not on the input.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, CriteoBlock
from dlrm_adahessian.data.criteo.faults import MAX_LINE, find_fault
from dlrm_adahessian.data.criteo.layout import Labels, find_layout
from dlrm_adahessian.data.criteo.text import PADDING, Columns, parse_lines
from dlrm_adahessian.data.text.bad_lines import BadLines, Reason
from dlrm_adahessian.data.text.sources import BYTE_ORDER_MARK, Source

_SHORTEST_ROW = len(COLUMN_NAMES) - 1  # bytes: 38 tabs and a newline, all fields empty, no label column
_BAD_LINES = 4096  # most bad lines that one call of the kernel reports
_SAMPLE_BYTES, _SAMPLE_LINES = 1 << 16, 100  # start of the text that shows its columns


@dataclass
class _Place:
    """Position in a source, and its columns."""

    name: str
    empty_label: bool
    labelled: bool
    line: int = 0  # lines read

    def explain(self, raw: bytes, line: int) -> Reason:
        """Return file:line:column and why `raw` is bad."""
        fault = find_fault(raw, labelled=self.labelled, empty_label=self.empty_label)
        return Reason(fault.rule, f"{self.name}:{line}:{fault.column}: {fault}")


def read_rows(
    source: Source,
    bad_lines: BadLines,
    *,
    labels: Labels = "required",
    block_bytes: int = 4 << 20,
    limit: int | None = None,
) -> Iterator[CriteoBlock]:
    """Parse the samples of a source in order.

    Args:
        source: the text.
        bad_lines: collects the bad lines, or raises `DataError` for them.
        labels: with `optional`, the label column may be missing (see `find_layout`), and a label may be empty.
        block_bytes: number of bytes read at a time; does not change the result.
        limit: number of good lines after which to stop; None reads to the end.

    Yields:
        Nonempty blocks. Raises `DataError` if the text has another format.
    """
    head = _head(source)
    labelled = find_layout(head.split(b"\n", _SAMPLE_LINES)[:_SAMPLE_LINES], source.name, labels)
    place = _Place(source.name, empty_label=labels == "optional", labelled=labelled)
    for text in _whole_lines(_pieces(head, source, block_bytes), place, bad_lines):
        for block in _parse_text(text, place, bad_lines, limit):
            yield block
            limit = None if limit is None else limit - len(block)
        if limit == 0:
            return


def _whole_lines(pieces: Iterator[bytes], place: _Place, bad_lines: BadLines) -> Iterator[bytes]:
    """Yield blocks of whole lines. A line that is too long goes to `bad_lines` piece by piece."""
    rest = b""
    too_long = False
    for data in pieces:
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


def _head(source: Source) -> bytes:
    """Read the first lines of a source, without a byte order mark; only one line if the source is live."""
    head = b""
    while len(head) < _SAMPLE_BYTES and not (source.live and b"\n" in head):
        data = source.read(_SAMPLE_BYTES - len(head))
        if not data:
            break
        head += data
    return head.removeprefix(BYTE_ORDER_MARK)


def _pieces(head: bytes, source: Source, block_bytes: int) -> Iterator[bytes]:
    """Yield `head`, which was read already, and the rest of the source."""
    if not source.live and len(head) < block_bytes:
        head += source.read(block_bytes - len(head))
    for start in range(0, len(head), block_bytes):
        yield head[start : start + block_bytes]
    while data := source.read(block_bytes):
        yield data


def _parse_text(text: bytes, place: _Place, bad_lines: BadLines, room: int | None) -> Iterator[CriteoBlock]:
    """Parse whole lines until `room` good ones are found."""
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
    """Reject a bad line, `line` lines after those that `place` counts."""
    number = place.line + line
    bad_lines.reject(raw, lambda: place.explain(raw, number))
