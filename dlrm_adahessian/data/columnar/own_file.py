"""Find the format of an unknown file from its first bytes, and profile its columns."""

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
_HEAD = 1 << 16  # bytes within which the first line must end
_ROWS = 1 << 16  # rows of a parquet batch


@dataclass(frozen=True)
class FileProfile:
    """Contents of a file.

    Attributes:
        name: file name.
        format: format of the data.
        header: generated column names for text without a header line.
        columns: profiles of the columns, in the order of the file.
    """

    name: str
    format: Format
    header: tuple[str, ...]
    columns: tuple[ColumnProfile, ...]


def profile_file(path: Path, *, rows: int) -> FileProfile:
    """Profile the first rows of a file.

    Args:
        path: parquet, or delimited text, plain or compressed.
        rows: largest number of rows to read.

    Returns:
        Contents of the file.

    Raises:
        UsageError: the path is a pipe or a folder.
        DataError: the file has another format, or no rows.
    """
    if is_pipe(path) or path.is_dir():
        raise UsageError(
            f"Cannot infer a schema from {path}: it is not a regular file. Pass one file of the data."
        )
    form, header = _layout(path)
    columns = profile_columns(read_all(path, form, header), rows=rows, plain_text=form != "parquet")
    if not columns:
        raise DataError(f"{path} has no rows. Pass a file with data.")
    return FileProfile(path.name, form, header, tuple(columns))


def read_all(path: str | Path, form: Format, header: tuple[str, ...]) -> Iterator[Any]:
    """Yield all columns of files as pyarrow batches. Text rows with a wrong number of columns are skipped."""
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
                            f"{source.name} has more than one column named {twice[0]!r}. Rename them."
                        )
                    yield from text.batches(text.names)


def _layout(path: Path) -> tuple[Format, tuple[str, ...]]:
    """Return the format of a file, and generated column names if the file has none."""
    with closing(open_sources(path, "parquet")) as sources:
        if next(sources).file.read(len(_PARQUET)) == _PARQUET:
            return "parquet", ()
    with closing(open_sources(path, "csv")) as sources:
        return _layout_of_text(next(sources))


def _layout_of_text(source: Source) -> tuple[Format, tuple[str, ...]]:
    line = Peekable(source).peek(_HEAD).removeprefix(BYTE_ORDER_MARK).partition(b"\n")[0]
    if is_row(line, labelled=True, empty_label=False):
        raise DataError(
            f"{source.name} is in Criteo's format, which needs no schema. Use --dataset criteo or criteo_1tb."
        )
    form: Format = "tsv" if line.count(b"\t") > line.count(b",") else "csv"
    text = line.rstrip(b"\r").decode(errors="replace")
    names: list[str] = next(csv.reader([text], delimiter=DELIMITERS[form]), [])
    if len(names) < 2:
        raise DataError(
            f"{source.name} must have columns separated by commas or tabs, but its first line has neither: {line!r:.60}. "
            "Rewrite the file with commas."
        )
    named = as_numbers(pa.array(names))[1].rows.all()
    return form, () if named else tuple(f"column_{place}" for place in range(1, len(names) + 1))
