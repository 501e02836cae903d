"""Show what a schema reads of the first samples of an input, by column, with the same errors as training."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.columnar.own_file import read_all
from dlrm_adahessian.data.columnar.profile import profile_columns
from dlrm_adahessian.data.columnar.reader import wanted_columns
from dlrm_adahessian.data.criteo.columns import COLUMN_NAMES, CriteoBlock
from dlrm_adahessian.data.datasets import require_both_labels
from dlrm_adahessian.data.raw import RowReader, files_read, part_of, part_of_files
from dlrm_adahessian.data.rows import ColumnBlock, RowBlock, missing_columns
from dlrm_adahessian.data.schema import (
    BagColumn,
    Column,
    DenseColumn,
    NamedColumn,
    Schema,
    SplitRule,
    TokenColumn,
)
from dlrm_adahessian.data.split import shares, split_rows
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.data.text.sources import listed, open_sources
from dlrm_adahessian.errors import DataError

_SAMPLE = 1000  # rows that are searched for an example


@dataclass(frozen=True)
class ReadColumn:
    """How a column is read.

    Attributes:
        name: name in the file.
        reading: role of the column and its settings.
        type: type in the file.
        missing: share of samples without a value; None if the column is required.
        distinct: number of distinct values or hashes of tokens; None if the column is not a feature.
        example: a value from the file.
    """

    name: str
    reading: str
    type: str
    missing: float | None
    distinct: int | None
    example: str


@dataclass(frozen=True)
class Preview:
    """Summary of what a schema reads.

    Attributes:
        rows: number of samples read.
        clicks: number of clicks among them.
        columns: columns that the schema reads, in its order.
        others: names of the other columns of the file.
        split: description of the split.
        parts: number of training, test, and validation samples; None unless the whole input was read.
    """

    rows: int
    clicks: int
    columns: tuple[ReadColumn, ...]
    others: tuple[str, ...]
    split: str
    parts: tuple[int, int, int] | None


def preview(schema: Schema, path: str, *, rows: int) -> Preview:
    """Read the first samples of an input.

    Args:
        schema: schema of the input.
        path: a file or a folder.
        rows: largest number of samples to read.

    Returns:
        Summary of what was read. Raises `DataError` if training would.
    """
    files, split = files_read(path, schema), schema.split
    if (part := part_of_files(path, schema)) is not None:
        _require_test_files(files, split)
    counts, reader, left = _Counts(), RowReader(schema, BadLines()), rows
    with closing(open_sources(path, schema.format, part_of=part or (lambda name: 0))) as sources:
        for source in sources:
            for block in reader.read(source, limit=left):
                counts.add(block, part and part(source.name))
                left -= len(block)
            if not left:
                break
    labels = np.concatenate([np.empty(0, np.int8), *counts.labels])
    columns, others = _columns(schema, path, counts)
    return Preview(
        rows=len(labels),
        clicks=int(labels.sum()),
        columns=columns,
        others=others,
        split=_split_told(schema, files),
        parts=_parts(labels, split, counts.parts) if left else None,
    )


def _parts(
    labels: npt.NDArray[np.int8], split: SplitRule, counted: npt.NDArray[np.int64]
) -> tuple[int, int, int]:
    """Return the number of samples in each part of a whole input. Raise if training on them is impossible."""
    found = split_rows(len(labels), split, counted.tolist() if counted.any() else None)
    require_both_labels(labels[: found.train.stop])
    return len(found.train), len(found.test), len(found.val)


class _Counts:
    """Running counts of labels, missing values, and distinct values.

    Attributes:
        labels: labels of each block.
        missing: number of samples without a value, by index of the dense or categorical column.
        distinct: distinct values of these columns, or hashes of tokens.
        parts: (3,) number of training, test, and validation samples; zeros if the split is by order.
    """

    def __init__(self) -> None:
        self.labels: list[npt.NDArray[np.int8]] = []
        self.missing: Counter[int] = Counter()
        self.distinct: dict[int, npt.NDArray[Any]] = {}
        self.parts = np.zeros(3, np.int64)

    def add(self, block: RowBlock, part: int | None) -> None:
        """Add a block, with its part if the file determines it."""
        self.labels.append(block.labels)
        for place, (values, missing) in enumerate(_values(block)):
            self.missing[place] += missing
            self.distinct[place] = np.union1d(self.distinct.get(place, values[:0]), values)
        if part is not None:
            self.parts[part] += len(block)
        elif block.part is not None:
            self.parts += np.bincount(block.part, minlength=3)


def _values(block: RowBlock) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Yield the values of each column that are not missing, and the number of samples without a value."""
    numbers = block.integers if isinstance(block, CriteoBlock) else block.dense
    if isinstance(block, ColumnBlock):
        numbers = block.values
    single = (*numbers.T, *block.tokens.T)
    absent = missing_columns(block.missing, len(single))
    for place, column in enumerate(single):
        yield column[~absent[:, place]], int(absent[:, place].sum())
    for bag in block.bags:
        yield bag.values, int((bag.lengths == 0).sum())


def _require_test_files(files: Sequence[Path], split: SplitRule) -> None:
    if not any(part_of(file.name, split) == 1 for file in files):
        raise DataError(
            f"Found no test files: none of {listed(files)} matches split.test_files {list(split.test_files)}. Change "
            "[split] of the schema."
        )


def _columns(schema: Schema, path: str, counts: _Counts) -> tuple[tuple[ReadColumn, ...], tuple[str, ...]]:
    """Return the columns that the schema reads, and the names of the others."""
    text = schema.format != "parquet"
    header = COLUMN_NAMES if schema.format == "criteo" else schema.header
    batches = read_all(path, "tsv" if schema.format == "criteo" else schema.format, header)
    found = {column.name: column for column in profile_columns(batches, rows=_SAMPLE, plain_text=text)}

    def read(column: Column, reading: str, place: int | None = None) -> ReadColumn:
        about = found[column.column]
        return ReadColumn(
            name=column.column,
            reading=reading,
            type=about.type,
            missing=None if place is None else counts.missing[place] / sum(map(len, counts.labels)),
            distinct=None if place is None else len(counts.distinct[place]),
            example=about.example,
        )

    rate = f", negative_rate {schema.label.negative_rate:g}" if schema.label.sampled else ""
    single = ((f"label{rate}", schema.label), ("weight", schema.weight), ("time", schema.time))
    columns = [read(column, name) for name, column in single if column is not None]
    columns += [
        read(column, _reading(column), place)
        for place, column in enumerate((*schema.dense, *schema.categorical))
    ]
    return tuple(columns), tuple(sorted({*found} - {*wanted_columns(schema)}))


def _reading(column: NamedColumn) -> str:
    """Describe how the values of a feature are read."""
    told: list[str] = []
    match column:
        case DenseColumn():
            told = ["dense", column.transform]
        case TokenColumn():
            told = ["bag" if isinstance(column, BagColumn) else "tokens", *_limits(column)]
        case _:
            pass
    name = f" as {column.feature}" if column.feature != column.column else ""
    return ", ".join(told) + name


def _limits(column: TokenColumn) -> Iterator[str]:
    if isinstance(column, BagColumn) and column.separator is not None:
        yield f"split at {column.separator!r}"
    if isinstance(column, BagColumn) and column.max_length is not None:
        yield f"first {column.max_length}"
    if column.characters is not None:
        yield "characters {} to {}".format(*column.characters)
    if column.buckets is not None:
        yield f"{column.buckets:,} buckets"
    if column.min_count is not None:
        yield f"min_count {column.min_count}"


def _split_told(schema: Schema, files: Sequence[Path]) -> str:
    """Describe the split."""
    split = schema.split
    if split.by == "time" and schema.time is not None:
        return (
            f"by time: train before {split.test_from} of {schema.time.column}, test before {split.validation_from}, "
            "validate on later samples"
        )
    if split.by == "files" and len(files) > 1:
        parts = [[file for file in files if part_of(file.name, split) == part] for part in range(3)]
        validate = listed(parts[2]) or "the last half of the test samples"
        return f"by files: train on {listed(parts[0])}, test on {listed(parts[1])}, validate on {validate}"
    train, test, validation = shares(split)
    return f"by order: train on the first {train:.1%}, test on the next {test:.1%}, validate on the last {validation:.1%}"
