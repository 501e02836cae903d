# pyright: basic
"""Finished runs, found again by what determines their results, so that nothing is trained twice."""

import logging
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash

from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.runs.finished import DIVERGED, PROGRESSIVE, SUMMARY, TEST, FinishedRun
from dlrm_adahessian.runs.logs import FLOAT32
from dlrm_adahessian.runs.run_directory import RunDirectory, packages
from dlrm_adahessian.runs.sealed import DamagedFolderError, exclusive_lock, fingerprint
from dlrm_adahessian.train.loop import fit
from dlrm_adahessian.train.results import RunResult, RunSummary
from dlrm_adahessian.train.samples import predicted, progressive, training_loader

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parents[1]
_TRAINING = (
    "curvature/*.py",
    "data/*.py",
    "distributed/*.py",
    "embeddings/*.py",
    "kernels/*.py",
    "metrics/*.py",
    "model/*.py",
    "optim/**/*.py",
    "runtime/device.py",  # how exactly products are computed
    "train/*.py",
)
"""The modules that determine what a run learns and measures. Prepared samples have a fingerprint of their own."""

_Todo = Literal["take", "resume", "begin"]


def run_path(config: RunConfig, data: PreparedData, root: Path, device: torch.device) -> Path:
    """Name the folder of a run after its optimizer and after all that determines its results.

    Args:
        config: of the run.
        data: its samples.
        root: holds a folder per run.
        device: that it computes on.

    Returns:
        The folder, which need not exist.
    """
    # A GPU rounds differently, and is compared by its speed too: a run on another kind of device is another run. So do
    # several ranks.
    key = fingerprint([config.fingerprint(data.fingerprint), device.type, ranks.world_size(), program()])
    return root / f"{config.optimizer}-{key}"


def find_or_fit(
    config: RunConfig, data: PreparedData, root: Path, device: torch.device, *, title: str | None
) -> RunResult | None:
    """Return a finished run, continue one that was cut off, or train it from the beginning.

    It needs a process group, and all ranks call it.

    Args:
        config: of the run.
        data: its samples.
        root: holds a folder per run.
        device: that this rank computes on.
        title: of the progress bar; None shows none.

    Returns:
        Its metrics and predictions on the first rank, None on the others; `fit` raises what a run raises.
    """
    # Where the runs are, the first rank says; others may name the cache by another path.
    path = ranks.first_does(lambda: str(run_path(config, data, root, device).absolute()))
    run = RunDirectory(Path(path))
    with ExitStack() as stack:
        claim = partial(_claim, config, data, run, stack)
        todo, found = ranks.first_opens(claim, patient=True)
        if todo == "take":
            return found
        fitted = fit(replace(config, resume=todo == "resume"), data, run, device, title=title)
        if fitted is not None:
            FinishedRun.seal(run.path, config.fingerprint(data.fingerprint), fitted.summary.asdict())
        return fitted


def finished(config: RunConfig, data: PreparedData, run: RunDirectory) -> RunResult | None:
    """Return what `fit` returned in a run directory, or None when the run there has not finished.

    Args:
        config: of the run.
        data: its samples.
        run: the directory.

    Returns:
        The same metrics and predictions; what changed since, or was never sealed, raises as `FinishedRun.open`.
    """
    if not (run.path / SUMMARY).exists():
        return None
    return result_of(config, data, FinishedRun.open(run.path, config.fingerprint(data.fingerprint)))


def result_of(config: RunConfig, data: PreparedData, sealed: FinishedRun) -> RunResult:
    """Return what `fit` returned, from its sealed files.

    Args:
        config: of the run.
        data: its samples.
        sealed: the files.

    Returns:
        The same metrics and predictions; a file that changed since it was opened raises as `FinishedRun.read`.
    """
    before_learning, of_test = (np.frombuffer(sealed.read(name), FLOAT32) for name in (PROGRESSIVE, TEST))
    return RunResult(
        summary=RunSummary.from_json(sealed.read_json(SUMMARY), sealed.folder / SUMMARY),
        progressive=progressive(config, data, training_loader(config, data), before_learning),
        test=predicted(data, data.split.test, of_test),
    )


def is_known_to_diverge(config: RunConfig, data: PreparedData, run: RunDirectory) -> bool:
    """Whether an earlier run with these settings and samples diverged, as its sealed result says."""
    if not (run.path / DIVERGED).exists():
        return False
    try:
        FinishedRun.open(run.path, config.fingerprint(data.fingerprint), DIVERGED)
    except DamagedFolderError as error:
        logger.warning("%s; the run is trained again", error)
        return False
    return True


def _claim(
    config: RunConfig, data: PreparedData, run: RunDirectory, stack: ExitStack
) -> tuple[_Todo, RunResult | None]:
    """Lock a run's folder until the stack ends, and say whether to take a finished run, or to resume or begin one."""
    # Processes side by side want the same run: one trains it, the others wait.
    stack.enter_context(exclusive_lock(run.path.with_suffix(".lock"), wait=True))
    if run.path.is_symlink():
        raise StorageError(f"a run is trained in a folder of its own, and {run.path} is a link; remove it")
    try:
        if (found := finished(config, data, run)) is not None:
            logger.info("reused the finished run in %s", run.path)
            return "take", found
    except DamagedFolderError as error:
        logger.warning("%s; the run is trained anew", error)
        with RunDirectory.create(run.path, resume=True):
            run.clear()
    todo: _Todo = "resume" if run.metrics.exists() else "begin"
    stack.enter_context(RunDirectory.create(run.path, resume=True))
    run.write_config(asdict(config))
    return todo, None


@cache
def program(package: Path = _PACKAGE) -> str:
    """Identify the code that trains: the sources in its folders and the versions below, as this process found them first."""
    sources = [path for place in _TRAINING for path in sorted(package.glob(place))]
    return fingerprint([packages(), [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in sources]])
