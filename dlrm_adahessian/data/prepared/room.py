"""Whether a disk has room for rows that are to be prepared; asked before the first one is read."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.text.packed import Peekable, unpacked
from dlrm_adahessian.runs.sealed import require_room

_LOOK = 1 << 23  # bytes of text at the beginning of a file by which its lines are counted
_PARQUET = b"PAR1"


def require_room_for_rows(rows: int, schema: Schema, folder: Path) -> None:
    """Refuse rows that cannot lie in a folder with a `StorageError`.

    Args:
        rows: how many.
        schema: of them. A row is taken to have a value a column, which bags may exceed.
        folder: to prepare them in.
    """
    columns = len(schema.dense_names) + len(schema.features)
    require_room(folder, rows * (4 * columns + 1), "--data.cache-dir")  # 4 bytes a number, 1 the label


def rows_of_files(files: Sequence[Path]) -> int:
    """Return about how many rows files have: parquet by its footer, lines by the first ones; of an archive 0."""
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
    import pyarrow as pa  # commands that read no such file start without it
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):  # a damaged file: who reads it says so
        return 0
