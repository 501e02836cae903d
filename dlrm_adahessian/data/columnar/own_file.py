"""A file of which nothing is known but its name: its format from the first bytes, and what its columns hold."""

import csv
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dlrm_adahessian.data.columnar.columns import as_numbers
from dlrm_adahessian.data.columnar.delimited import DELIMITERS, DelimitedText
from dlrm_adahessian.data.columnar.profile import ColumnProfile, profile_columns
from dlrm_adahessian.data.columnar.reader import whole_file
from dlrm_adahessian.data.criteo.faults import is_row
from dlrm_adahessian.data.schema import Format
from dlrm_adahessian.data.text.packed import Peekable
from dlrm_adahessian.data.text.sources import BYTE_ORDER_MARK, Source, is_pipe, open_sources
from dlrm_adahessian.errors import DataError, UsageError

_PARQUET = b"PAR1"
_HEAD = 1 << 16  # bytes within which the first line ends
_ROWS = 1 << 16  # of a batch of parquet


@dataclass(frozen=True)
class FileProfile:
    """What a file holds.

    Attributes:
        name: of the file.
        format: of the rows.
        header: made-up names of the columns of text whose first line does not name them.
        columns: in the order of the file.
    """

    name: str
    format: Format
    header: tuple[str, ...]
    columns: tuple[ColumnProfile, ...]


def profile_file(path: Path, *, rows: int) -> FileProfile:
    """Profile the first rows of a file.

    Args:
        path: parquet, or delimited text, plain or compressed.
        rows: how many at most.

    Returns:
        What it holds.

    Raises:
        UsageError: it is no file that can be read twice.
        DataError: it is of another format, or has no rows.
    """
    if is_pipe(path) or path.is_dir():
        raise UsageError(
            f"the columns of one file are looked at, and {path} is none; name a file of the rows"
        )
    form, header = _layout(path)
    columns = profile_columns(read_all(path, form, header), rows=rows, plain_text=form != "parquet")
    if not columns:
        raise DataError(f"{path} must hold rows, and has none; give a file with some")
    return FileProfile(path.name, form, header, tuple(columns))


def read_all(path: str | Path, form: Format, header: tuple[str, ...]) -> Iterator[Any]:
    """Yield all columns of files as batches of pyarrow; rows of text with another number of columns are left out."""
    with closing(open_sources(path, form)) as sources:
        for source in sources:
            with whole_file(source, form):
                if form == "parquet":
                    with pq.ParquetFile(pa.PythonFile(source.file, "r"), pre_buffer=False) as file:
                        yield from file.iter_batches(_ROWS)
                else:
                    text = DelimitedText(source, form, header)
                    if twice := [name for name in text.names if text.names.count(name) > 1]:
                        raise DataError(
                            f"{source.name} must name each column once, and has several {twice[0]!r}; rename them"
                        )
                    yield from text.batches(text.names)


def _layout(path: Path) -> tuple[Format, tuple[str, ...]]:
    """Return the format of a file, and the names of its columns where it has none."""
    with closing(open_sources(path, "parquet")) as sources:
        if next(sources).file.read(len(_PARQUET)) == _PARQUET:
            return "parquet", ()
    with closing(open_sources(path, "csv")) as sources:
        return _layout_of_text(next(sources))


def _layout_of_text(source: Source) -> tuple[Format, tuple[str, ...]]:
    line = Peekable(source).peek(_HEAD).removeprefix(BYTE_ORDER_MARK).partition(b"\n")[0]
    if is_row(line, labelled=True, empty_label=False):
        raise DataError(
            f"{source.name} holds rows of Criteo, which need no schema; train with --dataset criteo, or criteo_1tb"
        )
    form: Format = "tsv" if line.count(b"\t") > line.count(b",") else "csv"
    text = line.rstrip(b"\r").decode(errors="replace")
    names: list[str] = next(csv.reader([text], delimiter=DELIMITERS[form]), [])
    if len(names) < 2:
        raise DataError(
            f"the columns of {source.name} must have commas or tabs between them, and its first line has neither, found "
            f"{line!r:.60}; write it anew"
        )
    named = as_numbers(pa.array(names))[1].rows.all()
    return form, () if named else tuple(f"column_{place}" for place in range(1, len(names) + 1))
