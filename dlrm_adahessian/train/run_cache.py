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
from dlrm_adahessian.runs.run_directory import PredictionLog, RunDirectory, packages
from dlrm_adahessian.runs.sealed import exclusive_lock, fingerprint
from dlrm_adahessian.train.loop import TEST, fit
from dlrm_adahessian.train.results import RunResult, RunSummary
from dlrm_adahessian.train.run_log import PROGRESSIVE
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
    run = RunDirectory(run_path(config, data, root, device))
    with ExitStack() as stack:
        claim = partial(_claim, config, data, run, stack)
        todo, found = ranks.first_opens(claim, patient=True)
        if todo == "take":
            return found
        fitted = fit(replace(config, resume=todo == "resume"), data, run, device, title=title)
        if fitted is not None:
            run.write_summary(fitted.summary.asdict())
        return fitted


def finished(config: RunConfig, data: PreparedData, run: RunDirectory) -> RunResult | None:
    """Return what `fit` returned in a run directory, or None when the run there has not finished.

    Args:
        config: of the run.
        data: its samples.
        run: the directory.

    Returns:
        The same metrics and predictions.
    """
    if not (run.path / "summary.json").exists():
        return None
    test = data.split.test
    with PredictionLog(run.path / TEST) as test_log, PredictionLog(run.path / PROGRESSIVE) as log:
        if test_log.rows != len(test):
            return None
        return RunResult(
            summary=RunSummary.from_json(run.read_summary(), run.path / "summary.json"),
            progressive=progressive(data, training_loader(config, data), log),
            test=predicted(data, test, np.array(test_log.read())),
        )


def _claim(
    config: RunConfig, data: PreparedData, run: RunDirectory, stack: ExitStack
) -> tuple[_Todo, RunResult | None]:
    """Lock a run's folder until the stack ends, and say whether to take a finished run, or to resume or begin one."""
    # Processes side by side want the same run: one trains it, the others wait.
    stack.enter_context(exclusive_lock(run.path.with_suffix(".lock"), wait=True))
    if (found := finished(config, data, run)) is not None:
        logger.info("reused the finished run in %s", run.path)
        return "take", found
    todo: _Todo = "resume" if run.metrics.exists() else "begin"
    stack.enter_context(RunDirectory.create(run.path, resume=True))
    run.write_config(asdict(config))
    return todo, None


@cache
def program(package: Path = _PACKAGE) -> str:
    """Identify the code that trains: the sources in its folders and the versions below, as this process found them first."""
    sources = [path for place in _TRAINING for path in sorted(package.glob(place))]
    return fingerprint([packages(), [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in sources]])
