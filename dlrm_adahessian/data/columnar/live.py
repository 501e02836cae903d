"""Delimited text from somebody who waits for the answer to each row: it is parsed in pieces of whole rows, as they come."""

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

_BYTES = 8 << 20  # read at a time, where so many have come
_LONGEST = 1 << 20  # bytes of a row, which is held in memory until it ends


class LiveText:
    """The rows of a source, as `DelimitedText` has them.

    Attributes:
        names: of its columns, in order.
        odd: rows with a wrong number of columns, read so far and not taken away; all those of the piece.
    """

    def __init__(self, source: Source, form: Format, header: Sequence[str]) -> None:
        """Wait for the names of the columns, where the header does not say them; `DataError` when they cannot be read."""
        self.odd: deque[OddRow] = deque()
        self._source = source
        self._form: Format = form
        self._pieces = whole_rows(source, DELIMITERS[form])
        self._first: list[DelimitedText] = []
        self.names: Sequence[str] = header or self._names_of_first()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield a batch for each piece, without rows where all of them are odd; arguments as of `DelimitedText`."""
        none = pa.record_batch([pa.array([], pa.string())] * len(columns), names=list(columns))
        before = 0  # rows of the pieces so far
        for text in chain(self._first, (self._parsed(piece, self.names) for piece in self._pieces)):
            batch = pa.concat_batches([none, *text.batches(columns)])
            self.odd.extend(replace(row, number=before + row.number) for row in text.odd)
            before += len(batch) + len(text.odd)
            yield batch

    def _names_of_first(self) -> Sequence[str]:
        piece = next(self._pieces, None)
        if piece is None:
            raise DataError(
                f"{self._source.name} must name its columns in the first line and is empty; add the line, or name them by "
                "`header` of the schema"
            )
        self._first = [self._parsed(piece, ())]
        return self._first[0].names

    def _parsed(self, piece: bytes, header: Sequence[str]) -> DelimitedText:
        return DelimitedText(replace(self._source, read=io.BytesIO(piece).read), self._form, header)


def whole_rows(source: Source, delimiter: str) -> Iterator[bytes]:
    """Cut text behind rows, none of them blank, as soon as they have come; a line end within quotes ends none.

    Args:
        source: of the text.
        delimiter: between columns.

    Yields:
        Pieces that are the text, blank ones left out; the last may lack its line end.

    Raises:
        DataError: a row is too long to be one.
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
                f"{source.name} must hold rows of at most {_LONGEST:,} bytes, found one that begins {rest!r:.60}; close its "
                "quotes, or give the rows as a file with --data-path"
            )
    if rest.strip(b"\r\n"):
        yield rest


def _rows_between(delimiter: bytes) -> re.Pattern[bytes]:
    """Return what matches rows with their line ends; no part is tried twice, so that time grows with the text alone."""
    plain = rb"[^%s\r\n]*+" % re.escape(delimiter)
    field = rb'(?:"(?:[^"]++|"")*+"%s|(?!")%s)' % (plain, plain)
    row = rb"%s(?:%s%s)*+(?:\r\n?+|\n)" % (field, re.escape(delimiter), field)
    return re.compile(rb"(?:%s)?+(?:%s)*+" % (BYTE_ORDER_MARK, row))
