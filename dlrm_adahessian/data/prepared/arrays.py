"""Read and write .npy files: reading accepts only numbers, writing accepts a stream of unknown length.

Files are written, not mapped, because written pages do not count as memory of this process.
"""

from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.runs.files import new_file
from dlrm_adahessian.runs.sealed import DamagedFolderError

_HEADER_BYTES = 128  # header size of every .npy file here; NumPy pads to a multiple of 64


def read_array(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Read a .npy file.

    Args:
        path: the file.
        mapped: map the file read-only instead of reading it.

    Returns:
        The array.

    Raises:
        DamagedFolderError: the file is not an array of numbers, but for example a pickle or an archive.
    """
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (ValueError, EOFError, BadZipFile) as error:
        raise DamagedFolderError(f"{path} is not an array of numbers: {error}") from error
    if not isinstance(array, np.ndarray):  # an archive of arrays
        raise DamagedFolderError(f"{path} is an archive, not an array of numbers")
    return array


def write_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a new .npy file."""
    with NpyWriter(path, array.dtype, array.shape[1:]) as file:
        file.append(array)


class NpyWriter:
    """Writes a .npy file in pieces. The header comes last, when the number of rows is known."""

    def __init__(self, path: Path, dtype: npt.DTypeLike, row_shape: tuple[int, ...] = ()) -> None:
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._file = new_file(path)
        self._file.write(bytes(_HEADER_BYTES))

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Append rows (N, *row_shape)."""
        self._file.write(np.ascontiguousarray(rows, self._dtype).data)
        self.rows += len(rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the header, unless an error interrupted the rows."""
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
            raise RuntimeError(f"expected a header of {_HEADER_BYTES} bytes, NumPy wrote {self._file.tell()}")
