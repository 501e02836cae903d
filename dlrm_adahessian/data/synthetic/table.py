"""Write generated data of a schema to a file that the schema can read."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from dlrm_adahessian.data.columnar.hashing import pc
from dlrm_adahessian.data.columnar.reader import wanted_columns
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.rows import Bags
from dlrm_adahessian.data.schema import BagColumn, Schema
from dlrm_adahessian.data.synthetic.any_schema import PlantedRows, planted_rows
from dlrm_adahessian.data.synthetic.columns import dense_values, token_text
from dlrm_adahessian.runs.files import replacing
from dlrm_adahessian.runs.sealed import storage_errors


def write_table(schema: Schema, config: SyntheticConfig, rows: int, path: Path) -> None:
    """Write samples 0..rows - 1 of a seed in the format of the schema. Times are sample indices.

    Reading the file with the schema gives the samples of `any_schema.row_blocks`, but without probabilities.

    Args:
        schema: schema of format parquet, csv, or tsv that reads no column twice.
        config: seed and cardinality.
        rows: number of samples.
        path: the output file; replaced if it exists.

    Raises:
        ValueError: the schema has another format, reads a column twice, or has bags that its format cannot represent.
    """
    names = wanted_columns(schema)
    read = len(schema.dense) + len(schema.categorical) + 1 + bool(schema.weight) + bool(schema.time)
    if schema.format == "criteo" or len(names) != read:
        raise ValueError(
            f"the schema must have the format parquet, csv or tsv and read each column once, but has the format "
            f"{schema.format} and reads {len(names)} columns {read} times; write Criteo's format with write_tsv"
        )
    if schema.format != "parquet" and any(bag.separator is None for bag in schema.bags):
        raise ValueError(
            f'{schema.format} cannot store lists; set a separator such as "|" for each of the bags'
        )
    tables = _tables(schema, config, rows)
    first = next(tables)
    with storage_errors(path), replacing(path) as file, _writer(schema, file, first.schema) as writer:
        for table in chain([first], tables):
            writer.write(table)


def _tables(schema: Schema, config: SyntheticConfig, rows: int) -> Iterator[Any]:
    """Yield tables with the columns of the header, or else of the schema."""
    names = schema.header or wanted_columns(schema)
    first = 0
    for planted in planted_rows(schema, config, rows):
        columns = _columns(schema, planted, first)
        first += len(planted.labels)
        unread = pa.nulls(len(planted.labels), pa.string())
        yield pa.table({name: columns.get(name, unread) for name in names})


def _columns(schema: Schema, planted: PlantedRows, first: int) -> dict[str, Any]:
    """Return the columns that the schema reads, by name."""
    draws = planted.draws
    columns: dict[str, Any] = {schema.label.column: pa.array(planted.labels)}
    if schema.weight is not None and draws.weights is not None:
        columns[schema.weight.column] = pa.array(draws.weights.astype(np.float64))
    if schema.time is not None:
        columns[schema.time.column] = pa.array(np.arange(first, first + len(planted.labels)))
    for column, values in zip(schema.dense, dense_values(schema, draws.dense).T, strict=True):
        columns[column.column] = pa.array(values, mask=np.isnan(values))
    for column, ranks in zip(schema.tokens, draws.tokens.T, strict=True):
        columns[column.column] = token_text(ranks, column)
    for column, bags in zip(schema.bags, draws.bags, strict=True):
        columns[column.column] = _bag_column(column, bags)
    return columns


def _bag_column(column: BagColumn, bags: Bags) -> Any:
    lists = pa.ListArray.from_arrays(bags.offsets.astype(np.int32), token_text(bags.values, column))
    return lists if column.separator is None else pc.binary_join(lists, column.separator)


def _writer(schema: Schema, file: BinaryIO, columns: Any) -> Any:
    if schema.format == "parquet":
        return pyarrow.parquet.ParquetWriter(file, columns)
    delimiter = "," if schema.format == "csv" else "\t"
    options = pyarrow.csv.WriteOptions(delimiter=delimiter, include_header=not schema.header)
    return pyarrow.csv.CSVWriter(file, columns, write_options=options)
