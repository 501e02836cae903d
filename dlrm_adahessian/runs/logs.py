"""Append-only logs of a run in training: metrics and predictions.

Each log knows its position and the digest of everything before it. A checkpoint stores both, and a resumed run rewinds the
logs to them. So an interrupted run writes the same lines as an uninterrupted one, and changes in between raise an error.
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
"""Storage format of predictions."""


class _AppendLog:
    """A file that only grows, except when a resumed run rewinds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            # Unbuffered: a completed write is in the kernel, so it survives a kill of the process.
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
                    f"The checkpoint requires the first {size:,} bytes of {self.path}, which {changed}. Restore the file, "
                    f"or start again: remove {self.path.parent}, or choose another folder with --out."
                )
            self._file.truncate(size)
            self._hashed = kept

    def _hash(self, size: int) -> xxhash.xxh3_128:
        """Return the hash of the first `size` bytes of the file."""
        hashed = xxhash.xxh3_128()
        with self.path.open("rb") as file:
            while size and (block := file.read(min(size, HASH_BLOCK))):
                hashed.update(block)
                size -= len(block)
        return hashed

    @property
    def digest(self) -> str:
        """xxh3_128 of the content, 32 hexadecimal digits."""
        return self._hashed.hexdigest()

    def _sync(self) -> None:
        with storage_errors(self.path):
            os.fsync(self._file.fileno())


class MetricsLog(_AppendLog):
    """JSON lines. Opening an existing file continues it."""

    def log(self, record: Mapping[str, object], timing: Mapping[str, object] | None = None) -> None:
        """Append one line.

        Args:
            record: reproducible figures. Values that are not finite become null.
            timing: measured times.

        Raises:
            ValueError: `record` has a key `timing`.
        """
        if "timing" in record:
            raise ValueError("measured times belong in the argument `timing`, not in the record")
        line = finite({**record, **({"timing": timing} if timing else {})})
        self._append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def position(self) -> int:
        """Flush to disk, and return the length in bytes for a checkpoint."""
        self._sync()
        return self._size()

    def rewind(self, position: int, digest: str | None = None) -> None:
        """Drop everything after `position`. A shorter file or another digest raises a `CheckpointError`."""
        self._truncate(position, digest)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics.jsonl, also while the run trains.

    Args:
        path: the file. If it is missing, there are no lines.

    Returns:
        The records, without an incomplete last line.

    Raises:
            DataError: a line is not a JSON object with a step.
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
                f"Each line of {path} must be a JSON object with a step, but line {number:,} is {line!r:.60}. Restore the "
                "file from a copy, or train again."
            ) from error
        records.append(record)
    return records


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a line of metrics.jsonl under names with a slash, which TensorBoard and others group.

    Args:
        record: one line, with numbers and groups of numbers such as `val`.

    Returns:
        Grouped numbers as "val/auc" and others as "train/loss", without the step, nulls, and values that are not finite.
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
    """Predicted probabilities in order, little-endian float32 without a header.

    Opening an existing file continues it, without an incomplete last value after a kill.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self._size() % FLOAT32.itemsize:
            self._truncate(self.rows * FLOAT32.itemsize)

    @property
    def rows(self) -> int:
        """Number of complete values in the file."""
        return self._size() // FLOAT32.itemsize

    def append(self, probabilities: npt.NDArray[np.float32]) -> None:
        """Append (N,) float32.

        Args:
            probabilities: (N,) float32. Other dtypes are not converted, because rounding float64 would hide a bug.

        Raises:
            ValueError: the array has another dtype or is not 1-D.
        """
        if probabilities.dtype != np.float32 or probabilities.ndim != 1:
            raise ValueError(
                f"predictions must be 1-D float32, got {probabilities.dtype} with shape {probabilities.shape}"
            )
        self._append(np.ascontiguousarray(probabilities, dtype=FLOAT32).tobytes())

    def rewind(self, rows: int, digest: str | None = None) -> None:
        """Keep only the first `rows`. Fewer rows or another digest raise a `CheckpointError`."""
        self._truncate(rows * FLOAT32.itemsize, digest)

    def sync(self) -> None:
        """Flush to disk. Call this before a checkpoint stores `rows`."""
        self._sync()

    def read(self) -> npt.NDArray[np.float32]:
        """Return all predictions, (rows,) float32, as a read-only memory map."""
        if not self.rows:  # mmap rejects empty files
            return np.empty(0, np.float32)
        with storage_errors(self.path):
            return np.memmap(self.path, dtype=FLOAT32, mode="r")
