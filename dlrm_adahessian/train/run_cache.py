# pyright: basic
"""Reuse finished runs, identified by everything that determines their results, so that nothing is trained twice."""

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
    "runtime/device.py",  # sets the precision of matrix products
    "train/*.py",
)
"""Modules that determine the results of a run. Prepared data has its own fingerprint."""

_Todo = Literal["take", "resume", "begin"]


def run_path(config: RunConfig, data: PreparedData, root: Path, device: torch.device) -> Path:
    """Return the folder of a run, named by its optimizer and a fingerprint of everything that determines its results.

    Args:
        config: settings of the run.
        data: the samples.
        root: folder that contains one folder per run.
        device: device of the run.

    Returns:
        The folder. It may not exist yet.
    """
    # Another type of device rounds differently and has another speed, so it makes another run. So does another number of
    # ranks.
    key = fingerprint([config.fingerprint(data.fingerprint), device.type, ranks.world_size(), program()])
    return root / f"{config.optimizer}-{key}"


def find_or_fit(
    config: RunConfig, data: PreparedData, root: Path, device: torch.device, *, title: str | None
) -> RunResult | None:
    """Return a finished run, continue an interrupted one, or train it from the start.

    A collective: needs a process group, and all ranks call it.

    Args:
        config: settings of the run.
        data: the samples.
        root: folder that contains one folder per run.
        device: device of this rank.
        title: title of the progress bar; None shows no bar.

    Returns:
        Metrics and predictions on the first rank, None on the others. Errors are those of `fit`.
    """
    # The first rank decides where the runs are. Other ranks may see the cache under another path.
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
    """Return the result of a run in its directory, or None if the run has not finished.

    Args:
        config: settings of the run.
        data: the samples.
        run: run directory.

    Returns:
        Its metrics and predictions. Changed or unsealed files raise the errors of `FinishedRun.open`.
    """
    if not (run.path / SUMMARY).exists():
        return None
    return result_of(config, data, FinishedRun.open(run.path, config.fingerprint(data.fingerprint)))


def result_of(config: RunConfig, data: PreparedData, sealed: FinishedRun) -> RunResult:
    """Return the result of a run from its sealed files.

    Args:
        config: settings of the run.
        data: the samples.
        sealed: the sealed files.

    Returns:
        Its metrics and predictions. A file that changed since it was opened raises the errors of `FinishedRun.read`.
    """
    before_learning, of_test = (np.frombuffer(sealed.read(name), FLOAT32) for name in (PROGRESSIVE, TEST))
    return RunResult(
        summary=RunSummary.from_json(sealed.read_json(SUMMARY), sealed.folder / SUMMARY),
        progressive=progressive(config, data, training_loader(config, data), before_learning),
        test=predicted(data, data.split.test, of_test),
    )


def is_known_to_diverge(config: RunConfig, data: PreparedData, run: RunDirectory) -> bool:
    """Return whether a sealed result says that a run with these settings and samples diverged."""
    if not (run.path / DIVERGED).exists():
        return False
    try:
        FinishedRun.open(run.path, config.fingerprint(data.fingerprint), DIVERGED)
    except DamagedFolderError as error:
        logger.warning("%s; training the run again", error)
        return False
    return True


def _claim(
    config: RunConfig, data: PreparedData, run: RunDirectory, stack: ExitStack
) -> tuple[_Todo, RunResult | None]:
    """Lock the folder of a run until the stack closes, and choose to take, resume, or begin the run."""
    # If several processes need the same run, one trains it and the others wait.
    stack.enter_context(exclusive_lock(run.path.with_name(f"{run.path.name}.lock"), wait=True))
    if run.path.is_symlink():
        raise StorageError(f"The folder of a run must not be a link, but {run.path} is one. Remove it.")
    try:
        if (found := finished(config, data, run)) is not None:
            logger.info("reused the finished run in %s", run.path)
            return "take", found
    except DamagedFolderError as error:
        logger.warning("%s; training the run again", error)
        with RunDirectory.create(run.path, resume=True):
            run.clear()
    todo: _Todo = "resume" if run.metrics.exists() else "begin"
    stack.enter_context(RunDirectory.create(run.path, resume=True))
    run.write_config(asdict(config))
    return todo, None


@cache
def program(package: Path = _PACKAGE) -> str:
    """Return a fingerprint of the training code: its source files and package versions, read once per process."""
    sources = [path for place in _TRAINING for path in sorted(package.glob(place))]
    return fingerprint([packages(), [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in sources]])
