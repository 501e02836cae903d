"""Files of any schema to blocks of rows, in bounded memory; a value that breaks a rule makes its row a bad one."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
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
from dlrm_adahessian.data.criteo.bad_lines import BadLines
from dlrm_adahessian.data.rows import NO_LABEL, ColumnBlock, missing_words
from dlrm_adahessian.data.schema import Schema, SplitRule
from dlrm_adahessian.data.text.sources import Source
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runtime.settings import nearest

_ROWS = 1 << 16  # of a batch of parquet
_BYTES = 8 << 20  # of a block of text
_DELIMITERS = {"csv": ",", "tsv": "\t"}


class ColumnReader:
    """Reads the rows of one source after another; they are in the order of time where the schema has a time."""

    def __init__(
        self, schema: Schema, bad_rows: BadLines, labels: Literal["required", "optional"] = "required"
    ) -> None:
        """Set up.

        Args:
            schema: which columns to read, and how.
            bad_rows: takes the bad rows, and may refuse them with a `DataError`.
            labels: with `optional`, a row or a whole source may lack its label.
        """
        self._schema, self._bad_rows, self._labels = schema, bad_rows, labels
        self._latest: Any = None  # time of the rows so far
        self._row = 0  # rows of this source before the batch, the bad ones included
        self._source = ""

    def read(self, source: Source, *, limit: int | None = None) -> Iterator[ColumnBlock]:
        """Read the rows of a source in order; `DataError` when columns are absent or of a wrong type, or times fall.

        Args:
            source: of the format that the schema says.
            limit: good rows after which to stop; None reads to the end.

        Yields:
            Blocks that are not empty.
        """
        self._source, self._row = source.name, 0
        for batch in self._batches(source):
            block = self._block(batch)
            self._row += len(batch)
            block = block[:limit] if limit is not None else block
            if len(block):
                yield block
                limit = None if limit is None else limit - len(block)
            if limit == 0:
                return

    def _batches(self, source: Source) -> Iterator[Any]:
        batches = self._parquet if self._schema.format == "parquet" else self._text
        try:
            yield from batches(source)
        except pa.ArrowException as error:
            raise DataError(
                f"{source.name} must be a whole {self._schema.format} file: {error}; write it again"
            ) from error

    def _parquet(self, source: Source) -> Iterator[Any]:
        tokens = [column.column for column in self._schema.tokens]
        with pq.ParquetFile(pa.PythonFile(source.file, "r"), read_dictionary=tokens) as file:
            yield from file.iter_batches(_ROWS, columns=self._present(file.schema_arrow.names))

    def _text(self, source: Source) -> Iterator[Any]:
        def broken(row: Any) -> str:
            self._bad_rows.reject(
                (row.text + "\n").encode(),
                lambda: (
                    f"{source.name}, after row {self._row}: a row has {row.expected_columns} columns as the first line, "
                    f"and this one {row.actual_columns}, found {row.text!r:.60}"
                ),
            )
            return "skip"

        reader = pyarrow.csv.open_csv(
            pa.PythonFile(_Stream(source.read), "r"),
            read_options=pyarrow.csv.ReadOptions(
                block_size=_BYTES, column_names=self._schema.header or None, use_threads=True
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=_DELIMITERS[self._schema.format], invalid_row_handler=broken
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted_columns(self._schema), pa.string())
            ),
        )
        found = self._present(reader.schema.names)
        for batch in reader:
            yield batch.select(found)

    def _present(self, names: Sequence[str]) -> list[str]:
        """Return the wanted columns that a source has; refuse one that lacks any but a label that is optional."""
        wanted = wanted_columns(self._schema)
        if self._labels == "optional" and self._schema.label.column not in names:
            wanted.remove(self._schema.label.column)
        if absent := [column for column in wanted if column not in names]:
            raise DataError(
                f"{self._source} has no column {absent[0]!r}, which the schema reads{nearest(absent[0], list(names))}"
            )
        return wanted

    def _block(self, batch: Any) -> ColumnBlock:
        """Convert a batch, hand over its bad rows, and return the others."""
        columns = _Columns(batch, self._source)
        schema = self._schema
        values, tokens, absent = columns.fixed(schema)
        labels = columns.labels(schema.label.column, required=self._labels == "required")
        bags = [columns.convert(bag.column, partial(as_bags, column=bag)) for bag in schema.bags]
        weights = None if schema.weight is None else columns.checked(schema.weight.column, as_weights)
        time = None if schema.time is None else columns.convert(schema.time.column, as_times)
        good = self._good(batch, columns.faults)
        if time is not None:
            self._require_order(time[good], good)
        whole = ColumnBlock(
            schema=schema,
            labels=labels,
            values=values,
            tokens=tokens,
            missing=missing_words(absent),
            bags=bags,
            weights=weights,
            part=_parts(time, schema.split),
        )
        return whole if len(good) == len(batch) else whole[good]

    def _good(self, batch: Any, faults: Mapping[str, Fault]) -> npt.NDArray[np.int64]:
        """Hand over the bad rows in order, and return the places of the others."""
        if not faults:
            return np.arange(len(batch))
        bad = np.logical_or.reduce([fault.rows for fault in faults.values()])
        for row in np.flatnonzero(bad).tolist():
            (raw,) = batch.slice(row, 1).to_pylist()
            self._bad_rows.reject(
                (json.dumps(raw, default=str) + "\n").encode(), partial(self._explain, row, raw, faults)
            )
        return np.flatnonzero(~bad)

    def _explain(self, row: int, raw: Mapping[str, Any], faults: Mapping[str, Fault]) -> str:
        column = next(name for name, fault in faults.items() if fault.rows[row])
        return (
            f"{self._source}, row {self._row + row + 1}: column {column!r} {faults[column].rule}, found "
            f"{raw[column]!r:.60}"
        )

    def _require_order(self, time: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> None:
        """Refuse rows that are older than one before them."""
        if not len(time):
            return
        first = time[0] if self._latest is None else self._latest
        if len(wrong := np.flatnonzero(~(time >= np.append(first, time[:-1])))):
            raise DataError(
                f"{self._source}, row {self._row + int(rows[wrong[0]]) + 1}: rows must be in the order of time, and this "
                "one is older than the one before it; sort the rows, or leave [time] out of the schema"
            )
        self._latest = time[-1]


class _Columns:
    """The columns of a batch as numbers.

    Attributes:
        faults: of the columns that have some, by name.
    """

    def __init__(self, batch: Any, source: str) -> None:
        self.faults: dict[str, Fault] = {}
        self._batch, self._source = batch, source

    def convert(self, column: str, convert: Callable[[Any], Any]) -> Any:
        try:
            return convert(self._batch.column(column))
        except WrongTypeError as error:
            raise DataError(
                f"{self._source}: column {column!r} {error}; change the schema, or the file"
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
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """Return dense values (N, K), tokens (N, T), and which of both are missing (N, K + T)."""
        rows, dense, tokens = len(self._batch), len(schema.dense), len(schema.tokens)
        values, found = np.empty((rows, dense)), np.empty((rows, tokens), np.uint64)
        absent = np.zeros((rows, dense + tokens), np.bool_)
        for place, column in enumerate(schema.dense):
            values[:, place] = self.checked(column.column, as_numbers)
        absent[:, :dense] = np.isnan(values)
        for place, column in enumerate(schema.tokens):
            found[:, place], absent[:, dense + place] = self.convert(
                column.column, partial(as_tokens, column=column)
            )
        return values, found, absent


class _Stream:
    """What a source reads, as a file."""

    closed = False

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


def wanted_columns(schema: Schema) -> list[str]:
    """Return the names of the columns that are read, the label first, each once."""
    optional = [column for column in (schema.weight, schema.time) if column is not None]
    read = (schema.label, *optional, *schema.dense, *schema.categorical)
    return list(dict.fromkeys(column.column for column in read))


def _parts(time: npt.NDArray[Any] | None, split: SplitRule) -> npt.NDArray[np.int8] | None:
    """Return the part of each row, where it follows from its time."""
    if split.by != "time" or time is None:
        return None
    starts = as_times(pa.array([str(split.test_from), str(split.validation_from)]))
    return np.searchsorted(starts, time, "right").astype(np.int8)
