"""Arrays on disk: read as numbers and nothing else, written while rows stream by.

What grows, .npy files of unknown length and tokens column by column, is written, not mapped: written pages do not count
as this process's memory.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.runs.sealed import DamagedFolderError

_HEADER_BYTES = 128  # of every .npy file here; numpy pads to a multiple of 64
_PIECE = 1 << 16  # rows read at a time


def read_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read a .npy file.

    Args:
        path: the file.
        mapped: map it read-only instead of reading it.

    Returns:
        The array.

    Raises:
        DamagedFolderError: it is no array of numbers: a pickle, objects, an archive, anything else.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise DamagedFolderError(f"{path} is no array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays
        raise DamagedFolderError(f"{path} is no array of numbers but an archive")
    return array


class NpyWriter:
    """A .npy file whose header is written last, when the number of rows is known."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._file = path.open("wb")
        self._file.write(bytes(_HEADER_BYTES))

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write (N, *row_shape) more rows."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the header, unless the rows are incomplete."""
        with self._file:
            if error is None:
                self._write_header()

    def _write_header(self) -> None:
        self._file.seek(0)
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        if self._file.tell() != _HEADER_BYTES:
            raise RuntimeError(f"a header must take {_HEADER_BYTES} bytes, numpy wrote {self._file.tell()}")


class TokenSpill:
    """Tokens of all rows in a folder, a file per feature, and the bits of what is missing."""

    def __init__(self, folder: Path, schema: Schema) -> None:
        folder.mkdir()
        self._folder = folder
        self._first_bit = len(schema.dense)
        self._words = -(-(len(schema.dense) + len(schema.features)) // 64)
        self._columns = [folder / f"{name}.u32" for name in schema.features]
        self._missing = folder / "missing.u64"
        self.features = len(self._columns)
        self._files = [path.open("wb") for path in (*self._columns, self._missing)]

    def append(self, tokens: npt.NDArray[np.uint32], missing: npt.NDArray[np.uint64]) -> None:
        """Write N more rows, columns as in `RowBlock`."""
        for file, column in zip(self._files, (*np.ascontiguousarray(tokens.T), missing), strict=True):
            file.write(column.data)

    def close(self) -> None:
        """Finish writing; a second call does nothing."""
        for file in self._files:
            file.close()

    def column(self, feature: int, rows: int) -> Iterator[npt.NDArray[np.uint32]]:
        """Read the first `rows` tokens of a feature in pieces."""
        return _pieces(self._columns[feature], np.dtype(np.uint32), rows)

    def missing_counts(self, rows: int) -> npt.NDArray[np.int64]:
        """Count in how many of the first `rows` rows each feature is missing, (F,) int64."""
        counts = np.zeros(len(self._columns), np.int64)
        for missing in self._missing_words(rows):
            for feature in range(len(counts)):
                word, bit = divmod(self._first_bit + feature, 64)
                counts[feature] += np.count_nonzero(missing[:, word] & np.uint64(1 << bit))
        return counts

    def blocks(self, rows: int) -> Iterator[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint64]]]:
        """Read `rows` rows in blocks of tokens (N, F), a transposed view, and missing (N, W)."""
        columns = [self.column(feature, rows) for feature in range(len(self._columns))]
        for missing in self._missing_words(rows):
            yield np.stack([next(column) for column in columns]).T, missing

    def _missing_words(self, rows: int) -> Iterator[npt.NDArray[np.uint64]]:
        pieces = _pieces(self._missing, np.dtype((np.uint64, self._words)), rows)
        return (piece.reshape(-1, self._words) for piece in pieces)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder)


def _pieces(path: Path, dtype: np.dtype[Any], rows: int) -> Iterator[npt.NDArray[Any]]:
    with path.open("rb", buffering=0) as file:
        for first in range(0, rows, _PIECE):
            yield np.fromfile(file, dtype, min(_PIECE, rows - first))
