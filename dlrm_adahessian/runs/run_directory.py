"""The run directory: the settings, logs, results, and predictions of a run.

    config.json       the resolved configuration
    environment.json  versions, commit, machine: enough to repeat the run, together with the configuration
    plan.json         the shards of each rank, and the memory they need
    vocabulary/       tokens with their embedding rows, sealed (data/prepared/vocabulary.py, data/prepared/texts.py)
    metrics.jsonl     one line per logged step; measured times are under `timing`
    tensorboard/      the same figures as curves, if TensorBoard is installed; the baseline's in tensorboard/baseline
    profile/          traces of some steps, with --profile (profile.py)
    progressive.f32   progressive predictions, in the order of training; test.f32 has the test predictions
    checkpoints/      the newest checkpoints (checkpoint/reader.py); best/ has the one with the best validation
    calibration.json  the calibration of one checkpoint (evaluation/calibration/), if it was fitted
    seal.json         digests of the results (finished.py)
    summary.json      the results, or diverged.json with the reason if the run diverged; written last

The logs are append-only. A resumed run rewinds them to its checkpoint (logs.py).
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

LOCK = "lock"  # locked by the process that trains
RUNS = Path("runs")
"""Default folder of runs."""
PACKAGES = ("torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "numpy", "numba", "safetensors")
_TRACES = ("config.json", METRICS, SUMMARY, "checkpoints")  # each shows that the folder contains a run


@dataclass(frozen=True)
class RunDirectory:
    """Names and files of one run. Reading needs no lock. To write, open it with `create`.

    Attributes:
        path: the folder.
    """

    path: Path

    @classmethod
    @contextmanager
    def create(cls, path: Path, *, resume: bool) -> Generator[Self]:
        """Create the folder if needed, and lock it for one run for the duration of the block.

        Args:
            path: the run directory.
            resume: continue the run in the folder; an absent or empty folder starts from the beginning.

        Yields:
            The run directory.

        Raises:
            UsageError: the folder contains a run and `resume` is false, or it contains something else.
        """
        require_kind(path, "run")
        with locked_folder(path):
            found = [name for name in _TRACES if (path / name).exists()]
            if found and not resume:
                raise UsageError(
                    f"{path} already contains a run ({', '.join(found)}). Continue it with --resume, or choose another "
                    "folder with --out."
                )
            yield cls(path)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Folder of the checkpoint with the best validation, for runs with several validations or with patience."""
        return self.path / "best"

    @property
    def plan(self) -> Path:
        """File with the shards of each rank."""
        return self.path / "plan.json"

    @property
    def vocabulary(self) -> Path:
        """Sealed folder of the vocabulary used in training."""
        return self.path / "vocabulary"

    @property
    def metrics(self) -> Path:
        """File of `MetricsLog`."""
        return self.path / METRICS

    @property
    def curves(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.path / "tensorboard"

    def profile(self, rank: int) -> Path:
        """Return the file for the trace of a rank, with --profile."""
        return self.path / "profile" / f"rank-{rank}.json.gz"

    def write_config(self, resolved: Mapping[str, object]) -> None:
        """Write the resolved configuration and the environment."""
        write_json(self.path / "config.json", resolved)
        write_json(self.path / "environment.json", environment())

    def read_config(self) -> dict[str, Any]:
        """Read the resolved configuration.

        Returns:
            Its JSON values.

        Raises:
            NoInputError: the file is missing.
            DataError: the file is not a JSON object.
        """
        path = self.path / "config.json"
        if not path.exists():
            raise NoInputError(
                f"{self.path} is not a run directory (config.json is missing). Pass the --out folder of a training run."
            )
        try:
            value = read_json(path)
        except DamagedFolderError as error:
            raise DataError(f"{error}. Restore it from a copy, or train again with another --out.") from error
        if not isinstance(value, dict):
            raise DataError(f"{path} must contain a JSON object, found {type(value).__name__}. Train again.")
        return value

    def drop_checkpoints(self) -> None:
        """Delete the checkpoints, which only a resume or an evaluation needs."""
        for folder in (self.checkpoints, self.best):
            if folder.exists():
                with storage_errors(folder):
                    shutil.rmtree(folder)

    def clear(self) -> None:
        """Delete all files of the run except its lock, which `create` holds."""
        with storage_errors(self.path):
            for path in self.path.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.name != LOCK:
                    path.unlink()


@contextmanager
def locked_folder(path: Path) -> Generator[None]:
    """Create a folder if needed, and lock it for one process for the duration of the block.

    If the block raises and the folder contains only the lock, the folder is removed.

    Args:
        path: the folder. Symbolic links in it raise the error of `require_no_links`.

    Yields:
        Nothing. If another process holds the lock, the error is that of `exclusive_lock`.
    """
    with exclusive_lock(path / LOCK, wait=False):
        require_no_links(path)
        try:
            yield
        except BaseException:
            _drop_unused(path)
            raise


def _drop_unused(path: Path) -> None:
    """Remove a folder that contains only its lock, which this process holds, so that the next attempt can use its name."""
    with suppress(OSError):
        if [entry.name for entry in path.iterdir()] == [LOCK]:
            (path / LOCK).unlink()
            path.rmdir()


def environment() -> dict[str, object]:
    """Describe the software and the machine, without importing the packages.

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
    """Return the version of each of `PACKAGES`, None if it is not installed."""
    return {name: _installed(name) for name in PACKAGES}


def default_run_path(root: Path, stem: str, *, resume: bool) -> Path:
    """Return the default folder of a run: `stem`, `stem-2`, `stem-3`, ... under `root`.

    Args:
        root: the folder of all runs; it may be absent.
        stem: one path component.
        resume: return the newest existing folder instead of the next one.

    Returns:
        The path. Nothing is created.

    Raises:
        UsageError: `stem` is not a plain name.
    """
    if stem in {"", ".", ".."} or not re.fullmatch(r"[^/\0]+", stem):
        raise UsageError(
            f"The name of a run must be one path component, got {stem!r}. Choose a folder with --out."
        )
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
    # An installed copy may be inside an unrelated checkout.
    return commit if Path(toplevel) == checkout else None
