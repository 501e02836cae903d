"""Whether a disk has room for rows that are to be prepared; asked before the first one is read."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.runs.sealed import require_room

_LOOK = 1 << 20  # bytes at the beginning of a file by which its lines are counted


def require_room_for_rows(rows: int, schema: Schema, folder: Path) -> None:
    """Refuse rows that cannot lie in a folder with a `StorageError`.

    Args:
        rows: how many.
        schema: of them. A row is taken to have a value a column, which bags may exceed.
        folder: to prepare them in.
    """
    columns = len(schema.dense_names) + len(schema.features)
    require_room(folder, rows * (4 * columns + 1), "--data.cache-dir")  # 4 bytes a number, 1 the label


def rows_of_text(files: Sequence[Path]) -> int:
    """Return about how many lines files have, by their beginnings; 0 for what is compressed or no text."""
    return sum(map(_lines, files))


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        look = file.read(_LOOK)
    return 0 if b"\0" in look or not look else look.count(b"\n") * path.stat().st_size // len(look)
