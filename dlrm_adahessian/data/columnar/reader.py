"""Read files of any schema to blocks of samples in bounded memory. A value that breaks a rule makes its row bad."""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_adahessian.data.columnar.columns import (
    Fault,
    WrongTypeError,
    as_bags,
    as_labels,
    as_numbers,
    as_times,
    as_tokens,
    as_weights,
)
from dlrm_adahessian.data.columnar.delimited import DelimitedText, OddRow
from dlrm_adahessian.data.columnar.live import LiveText
from dlrm_adahessian.data.rows import NO_LABEL, ColumnBlock, TokenTexts, missing_words
from dlrm_adahessian.data.schema import Format, Schema, SplitRule
from dlrm_adahessian.data.text.bad_lines import BadLines, Reason
from dlrm_adahessian.data.text.sources import Source
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runtime.settings import nearest

_ROWS = 1 << 16  # rows of a parquet batch
_BUFFER = 1 << 20  # bytes of a column read at a time


@contextmanager
def whole_file(source: Source, form: Format) -> Generator[None]:
    """Raise `DataError` if reading shows that the file is damaged or has another format."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.name} is not a complete {form} file: {error}. Write it again.") from error


class ColumnReader:
    """Reads the samples of one source after another; in time order if the schema has a time."""

    def __init__(
        self, schema: Schema, bad_rows: BadLines, labels: Literal["required", "optional"] = "required"
    ) -> None:
        """Set up.

        Args:
            schema: columns to read, and how.
            bad_rows: collects the bad rows, or raises `DataError` for them.
            labels: with `optional`, labels may be missing in a row or in a whole source.
        """
        self._schema, self._bad_rows, self._labels = schema, bad_rows, labels
        self._starts = _starts(schema.split)
        self._time_type = None if self._starts is None else self._starts.dtype
        self._latest: Any = None  # time of the last row
        self._row = 0  # number of the last row read from this source, including bad ones
        self._odd: deque[OddRow] = deque()
        self._source = ""

    def read(self, source: Source, *, limit: int | None = None) -> Iterator[ColumnBlock]:
        """Read a source in order; raises `DataError` if columns are missing or have a wrong type, or times decrease.

        Args:
            source: source in the format of the schema.
            limit: number of good rows after which to stop; None reads to the end.

        Yields:
            Nonempty blocks.
        """
        self._source, self._row, self._odd = source.name, 0, deque()
        for batch in self._batches(source):
            block = self._block(batch, limit)
            if len(block):
                yield block
                limit = None if limit is None else limit - len(block)
            if limit == 0:
                return
            if source.live:
                self._reject_odd()
        self._reject_odd()

    def _batches(self, source: Source) -> Iterator[Any]:
        batches = self._parquet if self._schema.format == "parquet" else self._text
        with whole_file(source, self._schema.format):
            yield from batches(source)

    def _parquet(self, source: Source) -> Iterator[Any]:
        opened = pa.PythonFile(source.file, "r")
        fields = pq.read_schema(opened)
        wanted = self._present(fields.names)
        flat = [
            column.column
            for column in self._schema.tokens
            if not pa.types.is_nested(fields.field(column.column).type)
        ]
        # With pre_buffer, pyarrow would read the columns of all row groups before the first rows.
        with pq.ParquetFile(opened, read_dictionary=flat, pre_buffer=False, buffer_size=_BUFFER) as file:
            yield from file.iter_batches(_ROWS, columns=wanted)

    def _text(self, source: Source) -> Iterator[Any]:
        parsed = LiveText if source.live else DelimitedText
        text = parsed(source, self._schema.format, self._schema.header)
        self._odd = text.odd
        return text.batches(self._present(text.names))

    def _present(self, names: Sequence[str]) -> list[str]:
        """Return the wanted columns that a source has. Raise if one is missing, except an optional label."""
        wanted = wanted_columns(self._schema)
        if self._labels == "optional" and self._schema.label.column not in names:
            wanted.remove(self._schema.label.column)
        if absent := [column for column in wanted if column not in names]:
            raise DataError(
                f"{self._source} has no column {absent[0]!r}, which the schema reads{nearest(absent[0], list(names))}"
            )
        if repeated := [column for column in wanted if names.count(column) > 1]:
            raise DataError(
                f"{self._source} has {names.count(repeated[0])} columns named {repeated[0]!r}. Give them different names."
            )
        return wanted

    def _block(self, batch: Any, limit: int | None) -> ColumnBlock:
        """Convert a batch, reject its bad rows, and return at most `limit` of the others."""
        columns = _Columns(batch, self._source)
        schema = self._schema
        values, tokens, absent, texts = columns.fixed(schema)
        labels = columns.labels(schema.label.column, required=self._labels == "required")
        bags = [columns.convert(bag.column, partial(as_bags, column=bag)) for bag in schema.bags]
        weights = None if schema.weight is None else columns.checked(schema.weight.column, as_weights)
        time = None if schema.time is None else columns.checked(schema.time.column, as_times)
        numbers = self._numbers(len(batch))
        good = self._good(batch, numbers, columns.faults, limit)
        if time is not None and len(good):
            self._require_order(time[good], numbers[good])
        whole = ColumnBlock(
            schema=schema,
            labels=labels,
            values=values,
            tokens=tokens,
            missing=missing_words(absent),
            bags=[bag for bag, _ in bags],
            weights=weights,
            part=None
            if self._starts is None or time is None
            else np.searchsorted(self._starts, time, "right").astype(np.int8),
            texts=[*texts, *(of_bag for _, of_bag in bags)],
        )
        return whole if len(good) == len(batch) else whole[good]

    def _numbers(self, rows: int) -> npt.NDArray[np.int64]:
        """Return the 1-based numbers (N,) of the next `rows` rows of the source, skipping odd ones."""
        odd = [row.number for row in self._odd]
        first = self._row + 1
        numbers = np.setdiff1d(np.arange(first, first + rows + len(odd)), odd)[:rows]
        self._row = int(numbers[-1]) if rows else self._row
        return numbers

    def _good(
        self, batch: Any, numbers: npt.NDArray[np.int64], faults: Mapping[str, Fault], limit: int | None
    ) -> npt.NDArray[np.int64]:
        """Return the indices of at most `limit` good rows. Reject the bad rows before the last of them, in order."""
        bad = np.logical_or.reduce(
            [np.zeros(len(batch), np.bool_), *(fault.rows for fault in faults.values())]
        )
        good = np.flatnonzero(~bad)[:limit]
        end = good[-1] + 1 if len(good) == limit else len(batch)
        for row in np.flatnonzero(bad[:end]).tolist():
            self._reject_odd(before=numbers[row])
            (raw,) = batch.slice(row, 1).to_pylist()
            self._bad_rows.reject(
                _line(raw), partial(self._explain, row=row, number=numbers[row], raw=raw, faults=faults)
            )
        if end:
            self._reject_odd(before=numbers[end - 1])
        return good

    def _reject_odd(self, before: float = np.inf) -> None:
        """Reject the rows with a wrong number of columns that come before a row."""
        while self._odd and self._odd[0].number < before:
            odd = self._odd.popleft()
            self._row = max(self._row, odd.number)
            self._bad_rows.reject(_line(odd.text), lambda odd=odd: self._reason(odd.number, odd.fault))

    def _explain(
        self, *, row: int, number: int, raw: Mapping[str, Any], faults: Mapping[str, Fault]
    ) -> Reason:
        column = next(name for name, fault in faults.items() if fault.rows[row])
        return self._reason(
            number, f"column {column!r} {faults[column].rule}", f", found {raw[column]!r:.60}"
        )

    def _reason(self, number: int, rule: str, found: str = "") -> Reason:
        return Reason(rule, f"{self._source}, row {number}: {rule}{found}")

    def _require_order(self, time: npt.NDArray[Any], numbers: npt.NDArray[np.int64]) -> None:
        """Raise if the type of the times changes, or if a row is older than one before it."""
        if self._time_type is not None and self._time_type != time.dtype:
            raise DataError(
                f"{self._source}, row {numbers[0]}: the type of the times changes. Use numbers in all rows and in [split], "
                "or ISO 8601 times in all of them."
            )
        self._time_type = time.dtype
        first = time[0] if self._latest is None else self._latest
        if len(wrong := np.flatnonzero(time < np.append(first, time[:-1]))):
            raise DataError(
                f"{self._source}, row {numbers[wrong[0]]}: rows must be in time order, but this one is older than the one "
                "before it. Sort the rows, or remove [time] from the schema."
            )
        self._latest = time[-1]


class _Columns:
    """Converts the columns of a batch to arrays.

    Attributes:
        faults: faults found so far, by column name.
    """

    def __init__(self, batch: Any, source: str) -> None:
        self.faults: dict[str, Fault] = {}
        self._batch, self._source = batch, source

    def convert(self, column: str, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(self._batch.column(column))
        except WrongTypeError as error:
            raise DataError(
                f"{self._source}: column {column!r} {error}. Change the schema or the file."
            ) from error

    def checked(self, column: str, convert: Callable[[Any], tuple[Any, Fault]]) -> Any:
        found, fault = self.convert(column, convert)
        if fault.rows.any():
            self.faults[column] = fault
        return found

    def labels(self, column: str, *, required: bool) -> npt.NDArray[np.int8]:
        if column not in self._batch.schema.names:
            return np.full(len(self._batch), NO_LABEL, np.int8)
        return self.checked(column, partial(as_labels, required=required))

    def fixed(
        self, schema: Schema
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.bool_], list[TokenTexts]]:
        """Return dense values (N, K), tokens (N, T), which are missing (N, K + T), and the texts of T columns."""
        rows, dense, tokens = len(self._batch), len(schema.dense), len(schema.tokens)
        # Column-major, because columns are filled and spilled one by one.
        values, found = np.empty((rows, dense), order="F"), np.empty((rows, tokens), np.uint64, order="F")
        absent = np.zeros((rows, dense + tokens), np.bool_, order="F")
        for place, column in enumerate(schema.dense):
            values[:, place] = self.checked(column.column, as_numbers)
        absent[:, :dense] = np.isnan(values)
        texts: list[TokenTexts] = []
        for place, column in enumerate(schema.tokens):
            found[:, place], absent[:, dense + place], of_column = self.convert(
                column.column, partial(as_tokens, column=column)
            )
            texts.append(of_column)
        return values, found, absent, texts


def wanted_columns(schema: Schema) -> list[str]:
    """Return the names of the columns to read, without repetition, the label first."""
    optional = [column for column in (schema.weight, schema.time) if column is not None]
    read = (schema.label, *optional, *schema.dense, *schema.categorical)
    return list(dict.fromkeys(column.column for column in read))


def _line(row: Any) -> bytes:
    """Return a bad row as a line of JSON: its columns by name, or its text if the number of columns is wrong."""
    return (json.dumps(row, default=str) + "\n").encode()


def _starts(split: SplitRule) -> npt.NDArray[Any] | None:
    """Return the start times of the test and validation parts; None unless the split is by time."""
    if split.by != "time":
        return None
    starts, fault = as_times(pa.array([str(split.test_from), str(split.validation_from)]))
    if fault.rows.any() or not starts[0] < starts[1]:
        raise UsageError(
            "split.test_from must come before split.validation_from, and both must be numbers or both ISO 8601 times. Found "
            f"{split.test_from!r} and {split.validation_from!r}. Change [split] of the schema."
        )
    return starts
