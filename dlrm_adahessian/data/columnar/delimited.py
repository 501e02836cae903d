"""Parse delimited text to batches of text columns in bounded memory. Rows with a wrong number of columns are kept apart."""

import csv
import io
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv

from dlrm_adahessian.data.schema import Format
from dlrm_adahessian.data.text.packed import OpenFile, Peekable
from dlrm_adahessian.data.text.sources import BYTE_ORDER_MARK, Source
from dlrm_adahessian.errors import DataError

_BYTES = 8 << 20  # block size
_HEADER = 1 << 20  # bytes within which the first line must end
_BARREN = 64 << 20  # largest stretch without a good row, whose odd rows all stay in memory
DELIMITERS: Mapping[str, str] = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True)
class OddRow:
    """A row with a wrong number of columns.

    Attributes:
        number: 1-based number of the row in its file, not counting a header line.
        text: text of the row.
        fault: what is wrong with it.
    """

    number: int
    text: str
    fault: str


class DelimitedText:
    """The rows of a source.

    Attributes:
        names: column names, in order.
        odd: rows with a wrong number of columns that the caller has not removed yet; some may come after the last batch.
    """

    def __init__(self, source: Source, form: Format, header: Sequence[str]) -> None:
        """Read the column names unless `header` gives them; raises `DataError` if they cannot be read."""
        self.odd: deque[OddRow] = deque()
        self._source, self._header = source, header
        self._delimiter = DELIMITERS[form]
        self._stream = Peekable(source)
        self._barren = 0  # bytes read since the last batch
        self.names: Sequence[str] = header or self._first_line()

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """Yield the rows with the right number of columns; others go to `odd`.

        Args:
            columns: names of the columns to read, as text; other columns are skipped.

        Yields:
            pyarrow batches.
        """
        reader = pyarrow.csv.open_csv(
            pa.PythonFile(OpenFile(self._read), "r"),
            read_options=pyarrow.csv.ReadOptions(
                block_size=_BYTES,
                column_names=list(self._header) or None,
                use_threads=False,  # as fast; pyarrow gives row numbers only without threads
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=self._set_apart
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=columns, column_types=dict.fromkeys(columns, pa.string())
            ),
        )
        for batch in reader:
            self._barren = 0
            yield batch

    def _first_line(self) -> Sequence[str]:
        head = self._stream.peek(_HEADER).removeprefix(BYTE_ORDER_MARK).decode(errors="replace")
        try:
            return next(
                filter(None, csv.reader(io.StringIO(head, newline=""), delimiter=self._delimiter)), []
            )
        except csv.Error as error:
            raise DataError(
                f"Cannot read the column names in the first line of {self._source.name}: {error}. Add a header line, or "
                "list the names in `header` of the schema."
            ) from error

    def _read(self, size: int) -> bytes:
        self._barren += size
        if self._barren > _BARREN and self.odd:
            raise DataError(
                f"{self._source.name}, row {self.odd[0].number}: {self.odd[0].fault}. No row of the next {_BARREN:,} bytes "
                "is valid. Change the format or the `header` of the schema."
            )
        # pyarrow drops a line feed at the start of a block if the last block ended in a carriage return, even in quotes.
        cut = self._stream.peek(size).endswith(b"\r")
        return self._stream.read(size - cut)

    def _set_apart(self, row: Any) -> str:
        number = row.number if self._header else row.number - 1
        fault = f"expected {row.expected_columns} columns, found {row.actual_columns}: {row.text!r:.60}"
        self.odd.append(OddRow(number, row.text, fault))
        return "skip"
