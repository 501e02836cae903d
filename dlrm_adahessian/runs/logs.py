"""What a run writes while it trains: metrics and predictions, in files that only grow.

Both logs know their position and a digest of all before it. A checkpoint keeps both, and a resumed run rewinds the logs to
them: the lines of an interrupted and an uninterrupted run are the same, and what changed in between is refused.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import xxhash

from dlrm_adahessian.errors import CheckpointError, DataError
from dlrm_adahessian.runs.files import continued
from dlrm_adahessian.runs.sealed import HASH_BLOCK, finite, storage_errors

FLOAT32 = np.dtype("<f4")
"""How predictions are stored."""


class _AppendLog:
    """A file that only grows, except when a resumed run rewinds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            # Unbuffered: a line is with the kernel when the call returns, so a killed process loses none.
            self._file: BinaryIO = continued(path, buffering=0)
            self._hashed = self._hash(self._size())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def _append(self, data: bytes | memoryview) -> None:
        with storage_errors(self.path):
            rest = memoryview(data).cast("B")
            while rest:
                written = self._file.write(rest)
                self._hashed.update(rest[:written])
                rest = rest[written:]

    def _truncate(self, size: int, digest: str | None = None) -> None:
        with storage_errors(self.path):
            found = self._size()
            kept = self._hash(min(size, found))
            if size > found or digest not in (None, kept.hexdigest()):
                changed = f"now has {found:,}" if size > found else "changed since"
                raise CheckpointError(
                    f"the checkpoint goes with the first {size:,} bytes of {self.path}, which {changed}; restore it, or "
                    f"start anew: remove {self.path.parent}, or name another folder with --out"
                )
            self._file.truncate(size)
            self._hashed = kept

    def _hash(self, size: int) -> xxhash.xxh3_128:
        """Take in the first bytes of the file."""
        hashed = xxhash.xxh3_128()
        with self.path.open("rb") as file:
            while size and (block := file.read(min(size, HASH_BLOCK))):
                hashed.update(block)
                size -= len(block)
        return hashed

    @property
    def digest(self) -> str:
        """The xxh3_128 of all that is in the file, 32 hexadecimal digits."""
        return self._hashed.hexdigest()

    def _sync(self) -> None:
        with storage_errors(self.path):
            os.fsync(self._file.fileno())


class MetricsLog(_AppendLog):
    """JSON lines. Opening a file that exists continues it."""

    def log(self, record: Mapping[str, object], timing: Mapping[str, object] | None = None) -> None:
        """Append one line.

        Args:
            record: reproducible figures; not finite ones become null.
            timing: everything that a clock measured.

        Raises:
            ValueError: `record` has a key `timing`.
        """
        if "timing" in record:
            raise ValueError("what a clock measures goes into the argument `timing`, not into the record")
        line = finite({**record, **({"timing": timing} if timing else {})})
        self._append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def position(self) -> int:
        """Flush to disk and return the length in bytes, for a checkpoint to keep."""
        self._sync()
        return self._size()

    def rewind(self, position: int, digest: str | None = None) -> None:
        """Drop what was written after `position`; a shorter file, or one of another digest, raises `CheckpointError`."""
        self._truncate(position, digest)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl, also of a run in training.

    Args:
        path: the file; none has no lines.

    Returns:
        The records, without a last line that is still being written.

    Raises:
        DataError: a line is no JSON object with a step.
    """
    if not path.exists():
        return []
    with storage_errors(path):
        lines = path.read_bytes().split(b"\n")[:-1]
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{path} must hold a JSON object with a step in each line, and line {number:,} is {line!r:.60}; restore it "
                "from a copy, or train again"
            ) from error
        records.append(record)
    return records


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of metrics.jsonl by names with a slash, as TensorBoard and its like group them.

    Args:
        record: with numbers, and with groups of numbers as `val`.

    Returns:
        Those of a group under its name, as "val/auc", the others as "train/loss"; without the step, nulls, and what is not
        finite.
    """
    flat = {f"train/{name}": value for name, value in record.items() if name != "step"}
    for group, values in record.items():
        if isinstance(values, Mapping):
            flat |= {f"{group}/{name}": value for name, value in values.items()}
    return {
        name: float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


class PredictionLog(_AppendLog):
    """Predicted probabilities in row order, float32 little-endian without a header.

    Opening a file that exists continues it, without the row that a kill may have cut in half.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self._size() % FLOAT32.itemsize:
            self._truncate(self.rows * FLOAT32.itemsize)

    @property
    def rows(self) -> int:
        """Whole rows in the file."""
        return self._size() // FLOAT32.itemsize

    def append(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Append (N,) float32.

        Args:
            probabilities: (N,) float32; never converted, since rounding float64 would hide a mistake.

        Raises:
            ValueError: the array is of another type or not flat.
        """
        if probabilities.dtype != np.float32 or probabilities.ndim != 1:
            raise ValueError(
                f"predictions are flat float32, got {probabilities.dtype} of shape {probabilities.shape}"
            )
        self._append(np.ascontiguousarray(probabilities, dtype=FLOAT32).tobytes())

    def rewind(self, rows: int, digest: str | None = None) -> None:
        """Drop what was appended after the first `rows`; fewer rows, or of another digest, raise `CheckpointError`."""
        self._truncate(rows * FLOAT32.itemsize, digest)

    def sync(self) -> None:
        """Flush to disk; do it before a checkpoint keeps `rows`."""
        self._sync()

    def read(self) -> npt.NDArray[np.float32]:
        """Return all rows, (rows,) float32, mapped and read-only."""
        if not self.rows:  # an empty file cannot be mapped
            return np.empty(0, np.float32)
        with storage_errors(self.path):
            return np.memmap(self.path, dtype=FLOAT32, mode="r")
