"""The run directory: what a run was asked to do, what it measured, and what it predicted.

    config.json       the resolved configuration
    environment.json  versions, commit, machine: with the configuration, enough to repeat the run
    plan.json         which rank holds which part of the tables, and what it needs in memory
    vocabulary/       tokens to table rows, sealed (data/prepared/vocabulary.py), and their texts (data/prepared/texts.py)
    metrics.jsonl     a line per logged step; what a clock measures sits under `timing`
    progressive.f32   predictions made before their rows were learned, in row order; test.f32 those of the test part
    checkpoints/      the newest ones (checkpoint/reader.py); best/ holds the one with the best validation
    diverged.json     why the run diverged, where that is its result
    summary.json      the results; written last

Both logs are append-only and know their position. A checkpoint keeps the positions, and a resumed run rewinds
the logs to them, so that the lines of an interrupted and an uninterrupted run are the same.
"""

import importlib.metadata
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from dlrm_adahessian import __version__
from dlrm_adahessian.errors import CheckpointError, DataError, NoInputError, UsageError
from dlrm_adahessian.runs.sealed import (
    DamagedFolderError,
    exclusive_lock,
    read_json,
    storage_errors,
    write_json,
)

RUNS = Path("runs")
"""Holds the runs that are given no folder."""
PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "numba", "safetensors")
_TRACES = ("config.json", "metrics.jsonl", "summary.json", "checkpoints")  # each says: a run was here
_FLOAT32 = np.dtype("<f4")


@dataclass(frozen=True)
class RunDirectory:
    """Names and files of one run. Reading needs no lock; a run that writes comes from `create`.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    @contextmanager
    def create(cls, path: Path, *, resume: bool) -> Generator[Self]:
        """Lock `path` for one run until the block ends; make it when it is absent.

        Args:
            path: the run directory.
            resume: continue what the folder holds; an absent or empty folder starts from the beginning.

        Yields:
            The run directory.

        Raises:
            UsageError: the folder holds a run and `resume` is false.
        """
        with exclusive_lock(path / "lock", wait=False):
            found = [name for name in _TRACES if (path / name).exists()]
            if found and not resume:
                raise UsageError(
                    f"a new run needs a folder without one, and {path} holds {', '.join(found)}; "
                    "continue it with --resume, or name another folder with --out"
                )
            yield cls(path)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The folder of the checkpoint with the best validation, where there is more than one or training may stop early."""
        return self.path / "best"

    @property
    def plan(self) -> Path:
        """The file that says which rank holds which part of the tables."""
        return self.path / "plan.json"

    @property
    def vocabulary(self) -> Path:
        """The sealed folder of the vocabulary that the run was trained on."""
        return self.path / "vocabulary"

    @property
    def metrics(self) -> Path:
        """The file of `MetricsLog`."""
        return self.path / "metrics.jsonl"

    def write_config(self, resolved: Mapping[str, object]) -> None:
        """Write the resolved configuration, and the environment beside it."""
        write_json(self.path / "config.json", resolved)
        write_json(self.path / "environment.json", environment())

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration."""
        return self._read(
            "config.json",
            "it is no run directory, or its run never began; name the folder that training wrote",
        )

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write the results; figures that are not finite become null."""
        write_json(self.path / "summary.json", _finite(summary))

    def read_summary(self) -> dict[str, Any]:
        """Read the results."""
        return self._read("summary.json", "its run has not finished; finish it with --resume")

    def write_divergence(self, message: str) -> None:
        """Note that the run diverged, which is its result."""
        write_json(self.path / "diverged.json", {"message": message})

    @property
    def diverged(self) -> bool:
        """Whether the run is known to diverge."""
        return (self.path / "diverged.json").exists()

    def drop_checkpoints(self) -> None:
        """Delete what only continuing or scoring needs."""
        for folder in (self.checkpoints, self.best):
            if folder.exists():
                with storage_errors(folder):
                    shutil.rmtree(folder)

    def _read(self, name: str, why_absent: str) -> dict[str, Any]:
        path = self.path / name
        if not path.exists():
            raise NoInputError(f"{self.path} holds no {name}: {why_absent}")
        try:
            value = read_json(path)
        except DamagedFolderError as error:
            raise DataError(f"{error}; restore it from a copy, or run again into another folder") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} must hold a JSON object, found {type(value).__name__}; run again")
        return value


class _AppendLog:
    """A file that only grows, except when a resumed run rewinds it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            # Unbuffered: a line is with the kernel when the call returns, so a killed process loses none.
            self._file: BinaryIO = path.open("ab", buffering=0)

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
                rest = rest[self._file.write(rest) :]

    def _truncate(self, size: int) -> None:
        with storage_errors(self.path):
            if size > self._size():
                raise CheckpointError(
                    f"the checkpoint goes with the first {size:,} bytes of {self.path}, which now has "
                    f"{self._size():,}; restore the file, or start anew with another --out"
                )
            self._file.truncate(size)

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
        line = _finite({**record, **({"timing": timing} if timing else {})})
        self._append(json.dumps(line, allow_nan=False).encode() + b"\n")

    def position(self) -> int:
        """Flush to disk and return the length in bytes, for a checkpoint to keep."""
        self._sync()
        return self._size()

    def rewind(self, position: int) -> None:
        """Drop what was written after `position`; a shorter file raises `CheckpointError`."""
        self._truncate(position)


class PredictionLog(_AppendLog):
    """Predicted probabilities in row order, float32 little-endian without a header.

    Opening a file that exists continues it, without the row that a kill may have cut in half.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._truncate(self.rows * _FLOAT32.itemsize)

    @property
    def rows(self) -> int:
        """Whole rows in the file."""
        return self._size() // _FLOAT32.itemsize

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
        self._append(np.ascontiguousarray(probabilities, dtype=_FLOAT32).tobytes())

    def rewind(self, rows: int) -> None:
        """Drop what was appended after the first `rows`; fewer rows raise `CheckpointError`."""
        self._truncate(rows * _FLOAT32.itemsize)

    def sync(self) -> None:
        """Flush to disk; do it before a checkpoint keeps `rows`."""
        self._sync()

    def read(self) -> npt.NDArray[np.float32]:
        """Return all rows, (rows,) float32, mapped and read-only."""
        if not self.rows:  # an empty file cannot be mapped
            return np.empty(0, np.float32)
        with storage_errors(self.path):
            return np.memmap(self.path, dtype=_FLOAT32, mode="r")


def environment() -> dict[str, object]:
    """Describe the software and the machine, importing none of the packages.

    Returns:
        `version` of this program, `commit` of its checkout or null, `python`, `platform`, `cpus`, `packages`.
    """
    return {
        "version": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": packages(),
    }


def packages() -> dict[str, str | None]:
    """Return the version of each of `PACKAGES`, None for one that is not installed."""
    return {name: _installed(name) for name in PACKAGES}


def default_run_path(root: Path, stem: str, *, resume: bool) -> Path:
    """Name the folder of a run that was given none: `stem`, `stem-2`, `stem-3`, ... under `root`.

    Args:
        root: the folder of all runs; it may be absent.
        stem: one path component.
        resume: take the newest one that exists instead of the next one.

    Returns:
        The path; nothing is created.

    Raises:
        UsageError: `stem` would leave `root`.
    """
    if stem in {"", ".", ".."} or not re.fullmatch(r"[^/\0]+", stem):
        raise UsageError(f"a run's name is one path component, got {stem!r}; name the folder with --out")
    numbered = re.compile(re.escape(stem) + r"(?:-([2-9]|[1-9][0-9]+))?")
    with storage_errors(root):
        names = [match for path in root.glob("*") if (match := numbered.fullmatch(path.name))]
    newest = max((int(match[1] or 1) for match in names), default=0)
    number = max(newest, 1) if resume else newest + 1
    return root / (stem if number == 1 else f"{stem}-{number}")


def _finite(value: object) -> object:
    """Return `value` with null for each number that JSON has no notation for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    checkout = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(checkout), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    toplevel, _, commit = answer.strip().rpartition("\n")
    # An installed copy may lie inside somebody else's checkout.
    return commit if Path(toplevel) == checkout else None
