"""Files of any schema to blocks of rows, in bounded memory; a value that breaks a rule makes its row a bad one."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dlrm_adahessian.data.columnar import columns
from dlrm_adahessian.data.columnar.columns import Fault, WrongTypeError
from dlrm_adahessian.data.criteo.bad_lines import BadLines
from dlrm_adahessian.data.rows import NO_LABEL, ColumnBlock, missing_words
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.sources import Source
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runtime.settings import nearest

_ROWS = 1 << 16  # of a batch of parquet
_BYTES = 8 << 20  # of a block of text
_DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass
class _Place:
    """How far the reading of a source has come.

    Attributes:
        name: of the source.
        row: rows before the batch, the bad ones included.
        last: the latest time.
    """

    name: str
    row: int = 0
    last: Any = None


def read_columns(
    source: Source,
    schema: Schema,
    bad_rows: BadLines,
    *,
    labels: Literal["required", "optional"] = "required",
    limit: int | None = None,
    part: int | None = None,
    after: Any = None,
) -> Iterator[ColumnBlock]:
    """Read the rows of a source in order.

    Args:
        source: text, or a parquet file with a path.
        schema: which columns to read, and how.
        bad_rows: takes the bad rows, and may refuse them with a `DataError`.
        labels: with `optional`, a row or the whole source may lack its label.
        limit: good rows after which to stop; None reads to the end.
        part: of all rows, where the schema splits by files.
        after: the latest time of the sources before, which no row may precede.

    Yields:
        Blocks that are not empty.

    Raises:
        DataError: a column is absent or of a wrong type, or rows are not in the order of time.
    """
    place = _Place(source.name, last=after)
    for batch in _batches(source, schema, bad_rows, place, labels):
        block = _block(batch, schema, bad_rows, place, labels, part)
        place.row += len(batch)
        block = block[:limit] if limit is not None else block
        if len(block):
            yield block
            limit = None if limit is None else limit - len(block)
        if limit == 0:
            return


def wanted_columns(schema: Schema) -> list[str]:
    """Return the names of the columns that are read, the label first, each once."""
    optional = [column for column in (schema.weight, schema.time) if column is not None]
    read = (schema.label, *optional, *schema.dense, *schema.tokens, *schema.bags)
    return list(dict.fromkeys(column.column for column in read))


def _batches(
    source: Source, schema: Schema, bad_rows: BadLines, place: _Place, labels: str
) -> Iterator[pa.RecordBatch]:
    try:
        if schema.format == "parquet":
            yield from _parquet(source, schema, labels)
        else:
            yield from _text(source, schema, bad_rows, place, labels)
    except pa.ArrowException as error:
        raise DataError(
            f"{source.name} must be a whole {schema.format} file: {error}; write it again"
        ) from error


def _parquet(source: Source, schema: Schema, labels: str) -> Iterator[pa.RecordBatch]:
    if source.path is None:
        raise DataError("parquet cannot be read from a pipe, since its end says what is in it; give a file")
    tokens = [column.column for column in schema.tokens]
    with pq.ParquetFile(source.path, read_dictionary=tokens) as file:
        found = _present(source.name, file.schema_arrow.names, schema, labels)
        for batch in file.iter_batches(_ROWS, columns=found):
            source.advance(len(batch) / max(file.metadata.num_rows, 1))
            yield batch


def _text(
    source: Source, schema: Schema, bad_rows: BadLines, place: _Place, labels: str
) -> Iterator[pa.RecordBatch]:
    def broken(row: Any) -> str:
        bad_rows.reject(
            (row.text + "\n").encode(),
            lambda: (
                f"{source.name}, row {place.row + 1} or soon after: has {row.actual_columns} columns, the header "
                f"{row.expected_columns}"
            ),
        )
        return "skip"

    stream = pa.PythonFile(_Stream(source), mode="r")
    reader = pyarrow.csv.open_csv(
        stream,
        read_options=pyarrow.csv.ReadOptions(block_size=_BYTES, column_names=schema.header or None),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=_DELIMITERS[schema.format], invalid_row_handler=broken
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(wanted_columns(schema), pa.string()),
            strings_can_be_null=False,
        ),
    )
    found = _present(source.name, reader.schema.names, schema, labels)
    for batch in reader:
        yield batch.select(found)


class _Stream:
    """A source as a file."""

    closed = False

    def __init__(self, source: Source) -> None:
        self._read = source.read

    def read(self, size: int = -1) -> bytes:
        return self._read(size)

    def close(self) -> None:
        """Do nothing; the source is closed by who opened it."""


def _present(name: str, names: Sequence[str], schema: Schema, labels: str) -> list[str]:
    """Return the wanted columns that a source has; refuse one that lacks any but a label that is optional."""
    wanted = wanted_columns(schema)
    if labels == "optional" and schema.label.column not in names:
        wanted.remove(schema.label.column)
    if absent := [column for column in wanted if column not in names]:
        raise DataError(
            f"{name} has no column {absent[0]!r}, which the schema reads{nearest(absent[0], list(names))}"
        )
    return wanted


def _block(
    batch: Any, schema: Schema, bad_rows: BadLines, place: _Place, labels: str, part: int | None
) -> ColumnBlock:
    """Convert a batch, hand over its bad rows, and return the others."""
    rows, faults = len(batch), list[tuple[str, Fault]]()

    def take(column: str, convert: Callable[[Any], tuple[Any, Fault]]) -> Any:
        found, fault = _converted(place.name, column, lambda: convert(batch.column(column)))
        if fault.rows.any():
            faults.append((column, fault))
        return found

    def keep(column: str, convert: Callable[[Any], Any]) -> Any:
        return _converted(place.name, column, lambda: convert(batch.column(column)))

    name = schema.label.column
    label = np.full(rows, NO_LABEL, np.int8)
    if name in batch.schema.names:
        label = take(name, lambda values: columns.labels(values, required=labels == "required"))
    values = np.empty((rows, len(schema.dense)))
    for k, column in enumerate(schema.dense):
        values[:, k] = take(column.column, columns.numbers)
    tokens = np.empty((rows, len(schema.tokens)), np.uint64)
    absent = np.zeros((rows, len(schema.dense) + len(schema.tokens)), np.bool_)
    absent[:, : len(schema.dense)] = np.isnan(values)
    for j, column in enumerate(schema.tokens):
        tokens[:, j], absent[:, len(schema.dense) + j] = keep(
            column.column, lambda values, column=column: columns.tokens(values, column)
        )
    bags = [keep(bag.column, lambda values, bag=bag: columns.bags(values, bag)) for bag in schema.bags]
    weights = None if schema.weight is None else take(schema.weight.column, columns.weights)
    time = None if schema.time is None else keep(schema.time.column, columns.times)
    good = _good(batch, faults, bad_rows, place)
    if time is not None:
        _require_order(time[good], good, place)
    whole = ColumnBlock(
        schema=schema,
        labels=label,
        values=values,
        tokens=tokens,
        missing=missing_words(absent),
        bags=bags,
        weights=weights,
        part=_parts(rows, time, schema, part),
    )
    return whole if len(good) == rows else whole[good]


def _converted(source: str, column: str, convert: Callable[[], Any]) -> Any:
    try:
        return convert()
    except WrongTypeError as error:
        raise DataError(f"{source}: column {column!r} {error}; change the schema, or the file") from error


def _good(
    batch: Any, faults: Sequence[tuple[str, Fault]], bad_rows: BadLines, place: _Place
) -> npt.NDArray[np.int64]:
    """Hand over the bad rows in order, and return the places of the others."""
    if not faults:
        return np.arange(len(batch))
    bad = np.logical_or.reduce([fault.rows for _, fault in faults])
    for row in np.flatnonzero(bad).tolist():
        (raw,) = batch.slice(row, 1).to_pylist()

        def explain(row: int = row, raw: Any = raw) -> str:
            column, fault = next((name, fault) for name, fault in faults if fault.rows[row])
            return f"{place.name}, row {place.row + row + 1}: column {column!r} {fault.rule}, found {raw[column]!r:.60}"

        bad_rows.reject((json.dumps(raw, default=str) + "\n").encode(), explain)
    return np.flatnonzero(~bad)


def _require_order(time: npt.NDArray[Any], rows: npt.NDArray[np.int64], place: _Place) -> None:
    """Refuse rows that are older than one before them."""
    if not len(time):
        return
    before = np.concatenate([time[:1] if place.last is None else [place.last], time[:-1]])
    if len(wrong := np.flatnonzero(~(time >= before))):
        row = place.row + int(rows[wrong[0]]) + 1
        raise DataError(
            f"{place.name}, row {row}: rows must be in the order of time, and this one is older than the one before it; "
            "sort the rows, or leave [time] out"
        )
    place.last = time[-1]


def _parts(
    rows: int, time: npt.NDArray[Any] | None, schema: Schema, part: int | None
) -> npt.NDArray[np.int8] | None:
    if part is not None:
        return np.full(rows, part, np.int8)
    if schema.split.by != "time" or time is None:
        return None
    bounds = [schema.split.test_from, schema.split.validation_from]
    starts = columns.times(pa.array([str(bound) for bound in bounds]))
    return np.searchsorted(starts, time, "right").astype(np.int8)
