"""Parse delimited text as it arrives, in pieces of whole rows, for a client that waits for the answer to each row."""

import io
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import pyarrow as pa

from dlrm_adahessian.data.columnar.delimited import DELIMITERS, DelimitedText, OddRow
from dlrm_adahessian.data.schema import Format
from dlrm_adahessian.data.text.sources import BYTE_ORDER_MARK, Source
from dlrm_adahessian.errors import DataError

_BYTES = 8 << 20  # most bytes read at a time
_LONGEST = 1 << 20  # most bytes of a row, which stays in memory until it ends


class LiveText:
    """The rows of a source, with the interface of `DelimitedText`.

    Attributes:
        names: column names, in order.
        odd: rows with a wrong number of columns that the caller has not removed yet; all those of the last piece.
    """

    def __init__(self, source: Source, form: Format, header: Sequence[str]) -> None:
        """Wait for the column names unless `header` gives them; raises `DataError` if they cannot be read."""
        self.odd: deque[OddRow] = deque()
        self._source = source
        self._form: Format = form
        self._pieces = whole_rows(source, DELIMITERS[form])
        self._first: list[DelimitedText] = []
        self.names: Sequence[str] = header or self._names_of_first()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield a batch for each piece, empty if all its rows are odd. See `DelimitedText.batches` for the arguments."""
        none = pa.record_batch([pa.array([], pa.string())] * len(columns), names=list(columns))
        before = 0  # rows in earlier pieces
        for text in chain(self._first, (self._parsed(piece, self.names) for piece in self._pieces)):
            batch = pa.concat_batches([none, *text.batches(columns)])
            self.odd.extend(replace(row, number=before + row.number) for row in text.odd)
            before += len(batch) + len(text.odd)
            yield batch

    def _names_of_first(self) -> Sequence[str]:
        piece = next(self._pieces, None)
        if piece is None:
            raise DataError(
                f"{self._source.name} is empty, so it has no column names. Add a header line, or list the names in "
                "`header` of the schema."
            )
        self._first = [self._parsed(piece, ())]
        return self._first[0].names

    def _parsed(self, piece: bytes, header: Sequence[str]) -> DelimitedText:
        return DelimitedText(replace(self._source, read=io.BytesIO(piece).read), self._form, header)


def whole_rows(source: Source, delimiter: str) -> Iterator[bytes]:
    """Cut text into pieces of whole rows as soon as they arrive. A line end within quotes does not end a row.

    Args:
        source: the text.
        delimiter: character between columns.

    Yields:
        Consecutive pieces of the text, without blank ones; the last may lack its line end.

    Raises:
        DataError: a row is too long.
    """
    rows = _rows_between(delimiter.encode())
    rest = b""
    while data := source.read(_BYTES):
        rest += data
        found = rows.match(rest)
        end = found.end() if found else 0
        if rest[:end].strip(b"\r\n"):
            yield rest[:end]
        rest = rest[end:]
        if len(rest) > _LONGEST:
            raise DataError(
                f"{source.name} has a row of more than {_LONGEST:,} bytes, which begins {rest!r:.60}. Close its quotes, or "
                "pass the data as a file with --data-path."
            )
    if rest.strip(b"\r\n"):
        yield rest


def _rows_between(delimiter: bytes) -> re.Pattern[bytes]:
    """Return a pattern of rows with their line ends. It never backtracks, so its time is linear in the text."""
    plain = rb"[^%s\r\n]*+" % re.escape(delimiter)
    field = rb'(?:"(?:[^"]++|"")*+"%s|(?!")%s)' % (plain, plain)
    row = rb"%s(?:%s%s)*+(?:\r\n?+|\n)" % (field, re.escape(delimiter), field)
    return re.compile(rb"(?:%s)?+(?:%s)*+" % (BYTE_ORDER_MARK, row))
