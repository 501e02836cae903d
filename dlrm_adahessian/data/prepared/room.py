"""Check, before reading any data, that the disk has room for the prepared data."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.packed import Peekable, unpacked
from dlrm_adahessian.runs.sealed import require_room

_LOOK = 1 << 23  # bytes at the start of a text file from which its number of lines is estimated
_PARQUET = b"PAR1"


def require_room_for_rows(rows: int, schema: Schema, folder: Path) -> None:
    """Raise `StorageError` if a folder has no room for the prepared data.

    Args:
        rows: number of samples.
        schema: schema of the samples. The estimate assumes one value per column; bags may need more.
        folder: folder of the prepared data.
    """
    columns = len(schema.dense_names) + len(schema.features)
    require_room(folder, rows * (4 * columns + 1), "--data.cache-dir")  # 4 bytes per number, 1 for the label


def rows_of_files(files: Sequence[Path]) -> int:
    """Estimate the number of samples in files, from parquet footers or the first lines of text; 0 for archives."""
    return sum(map(_rows, files))


def _rows(path: Path) -> int:
    with path.open("rb") as file:
        packed = Peekable(file)
        if packed.peek(len(_PARQUET)) == _PARQUET:
            return _rows_of_parquet(path)
        look = unpacked(packed, str(path)).read(_LOOK)
        taken = file.tell()
    return 0 if b"\0" in look or not look else look.count(b"\n") * path.stat().st_size // taken


def _rows_of_parquet(path: Path) -> int:
    import pyarrow as pa  # imported here: most commands do not need it and start faster
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):  # a damaged file: reading it reports the error
        return 0
