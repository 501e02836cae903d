"""The run directory: what a run was asked to do, what it measured, and what it predicted.

    config.json       the resolved configuration
    environment.json  versions, commit, machine: with the configuration, enough to repeat the run
    plan.json         which rank holds which part of the tables, and what it needs in memory
    vocabulary/       tokens to table rows, sealed (data/prepared/vocabulary.py), and their texts (data/prepared/texts.py)
    metrics.jsonl     a line per logged step; what a clock measures sits under `timing`
    tensorboard/      the same as curves, where TensorBoard is installed; tensorboard/baseline those of the baseline
    profile/          traces of some steps, where --profile asks for them (profile.py)
    progressive.f32   predictions made before their rows were learned, in row order; test.f32 those of the test part
    checkpoints/      the newest ones (checkpoint/reader.py); best/ holds the one with the best validation
    calibration.json  calibrated probabilities of one checkpoint (evaluation/calibration/), where they were fitted
    seal.json         digests of the results (finished.py)
    summary.json      the results, or diverged.json, why the run diverged, where that is its result; written last

The logs are append-only, and a resumed run rewinds them to its checkpoint (logs.py).
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dlrm_adahessian import __version__
from dlrm_adahessian.errors import DataError, NoInputError, UsageError
from dlrm_adahessian.runs.finished import METRICS, SUMMARY
from dlrm_adahessian.runs.kinds import require_kind
from dlrm_adahessian.runs.sealed import (
    DamagedFolderError,
    exclusive_lock,
    read_json,
    require_no_links,
    storage_errors,
    write_json,
)

LOCK = "lock"  # held by the process that trains
RUNS = Path("runs")
"""Holds the runs that are given no folder."""
PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "numba", "safetensors")
_TRACES = ("config.json", METRICS, SUMMARY, "checkpoints")  # each says: a run was here


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
            UsageError: the folder holds a run and `resume` is false, or something else than a run.
        """
        require_kind(path, "run")
        with locked_folder(path):
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
        return self.path / METRICS

    @property
    def curves(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    def profile(self, rank: int) -> Path:
        """The trace of a rank's steps, where some are profiled."""
        return self.path / "profile" / f"rank-{rank}.json.gz"

    def write_config(self, resolved: Mapping[str, object]) -> None:
        """Write the resolved configuration, and the environment beside it."""
        write_json(self.path / "config.json", resolved)
        write_json(self.path / "environment.json", environment())

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration.

        Returns:
            Its JSON values.

        Raises:
            NoInputError: there is none.
            DataError: it is no JSON object.
        """
        path = self.path / "config.json"
        if not path.exists():
            raise NoInputError(
                f"{self.path} holds no config.json: it is no run directory, or its run never began; name the folder that "
                "training wrote"
            )
        try:
            value = read_json(path)
        except DamagedFolderError as error:
            raise DataError(f"{error}; restore it from a copy, or run again into another folder") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} must hold a JSON object, found {type(value).__name__}; run again")
        return value

    def drop_checkpoints(self) -> None:
        """Delete what only continuing or scoring needs."""
        for folder in (self.checkpoints, self.best):
            if folder.exists():
                with storage_errors(folder):
                    shutil.rmtree(folder)

    def clear(self) -> None:
        """Delete all that the run left but its lock, which `create` holds."""
        with storage_errors(self.path):
            for path in self.path.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()


@contextmanager
def locked_folder(path: Path) -> Generator[None]:
    """Lock a folder for one process until the block ends; make it when it is absent.

    An error that leaves the folder with nothing but its lock removes it.

    Args:
        path: the folder; symbolic links in it are refused as by `require_no_links`.

    Yields:
        Nothing; a folder that another process holds raises as `exclusive_lock`.
    """
    with exclusive_lock(path / LOCK, wait=False):
        require_no_links(path)
        try:
            yield
        except BaseException:
            _drop_unused(path)
            raise


def _drop_unused(path: Path) -> None:
    """Remove the folder of an attempt that wrote nothing, so that the next one gets its name; its lock is held."""
    with suppress(OSError):
        if [entry.name for entry in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
            path.rmdir()


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
