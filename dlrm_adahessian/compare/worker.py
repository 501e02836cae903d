# pyright: basic
"""Train one run after another in a process of its own, and measure their curvature and step times."""

import logging
import os
import threading
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.compare.bands import band_of_ids, bands_of_samples, mean_by_table_and_band
from dlrm_adahessian.compare.results import CurvatureByBand
from dlrm_adahessian.compare.search import Select, judged_logloss
from dlrm_adahessian.compare.step_time import step_ms
from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.data.loader import Loader, on_device
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import DivergedError
from dlrm_adahessian.runs.finished import SUMMARY, FinishedRun
from dlrm_adahessian.runs.lease import Holder, Lease
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import DamagedFolderError
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.runtime.process import keep_freed_memory, quiet_libraries
from dlrm_adahessian.train.results import RunResult, RunSummary
from dlrm_adahessian.train.run_cache import find_or_fit, is_known_to_diverge, result_of, run_path
from dlrm_adahessian.train.state import SCORING_BATCH, TrainState

CURVATURE = "curvature.json"
"""Result of `curvature_by_band`, in the run directory."""
STEP_TIME = "step_time.json"
"""Result of `time_steps`, in the run directory."""
_CURVATURE_SAMPLES = 64 * 1024
logger = logging.getLogger(__name__)
_data: PreparedData | None = None  # of this process; set once, before its first run


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A finished run without its predictions.

    Attributes:
        summary: metrics and costs; None if it diverged.
        logloss: log loss on the selection set; None if it diverged.
    """

    summary: RunSummary | None = None
    logloss: float | None = None


def begin(folder: Path, threads: int, parent: int) -> None:
    """Prepare this process for its runs.

    Args:
        folder: prepared data, which is verified here.
        threads: number of threads of each run.
        parent: id of the process with which this one ends. The caller passes it, because the parent may be gone by now.
    """
    global _data
    logging.root.handlers.clear()  # remove handlers of libraries that this module imports
    quiet_libraries()
    logging.getLogger("dlrm_adahessian").setLevel(logging.ERROR)
    # Of the messages of a run, users of a comparison need only this warning: a finished run is trained again.
    logging.getLogger("dlrm_adahessian.train.run_cache").setLevel(logging.WARNING)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    keep_freed_memory()
    _data = open_prepared(folder)


def train(
    values: dict[str, Any], root: Path, *, select: Select, diagnose: bool, lease: float
) -> Judged | Holder:
    """Train a run unless it is finished or known to diverge, or another process trains it.

    Args:
        values: configuration of the run.
        root: folder of the runs.
        select: selection set.
        diagnose: whether to measure the curvature of the trained model.
        lease: seconds after which an unresponsive process counts as dead.

    Returns:
        The result of the run, or the process that trains it. A RuntimeError is raised if `begin` was not called before.
    """
    data = _begun()
    config = from_dict(values)
    device = find_device(config.device)
    run = RunDirectory(run_path(config, data, root, device))
    if (known := _known(config, data, run, select, diagnose=diagnose)) is not None:
        return known
    held = Lease.take(run.path, lease, partial(_end_without, run.path, lease))
    if isinstance(held, Holder):
        return held
    with held, init_process_group(device, config.timeout):
        return _trained(config, data, run, device, select, diagnose=diagnose)


def _known(
    config: RunConfig, data: PreparedData, run: RunDirectory, select: Select, *, diagnose: bool
) -> Judged | None:
    """Return the result of a run, or None if part of its work is left."""
    if run.checkpoints.exists() or run.best.exists():
        return None
    if is_known_to_diverge(config, data, run):
        return Judged()
    if not (run.path / SUMMARY).exists():
        return None
    try:
        sealed = FinishedRun.open(run.path, config.fingerprint(data.fingerprint))
        if diagnose and CURVATURE not in sealed.files:
            return None
        return _judged(config, result_of(config, data, sealed), select)
    except DamagedFolderError:  # `find_or_fit` logs it when it trains the run again
        return None


def _judged(config: RunConfig, found: RunResult, select: Select) -> Judged:
    return Judged(summary=found.summary, logloss=judged_logloss(found, select, config.batch_size))


def _trained(
    config: RunConfig,
    data: PreparedData,
    run: RunDirectory,
    device: torch.device,
    select: Select,
    *,
    diagnose: bool,
) -> Judged:
    """Do the work that is left of a run. Requires its lease and a process group."""
    judged = Judged()
    if not is_known_to_diverge(config, data, run):
        try:
            if (found := find_or_fit(config, data, run.path.parent, device, title=None)) is not None:
                judged = _judged(config, found, select)
            if diagnose:
                _diagnose(config, data, run, device)
        except DivergedError as error:
            FinishedRun.seal_divergence(run.path, config.fingerprint(data.fingerprint), str(error))
    # A comparison reads only predictions and metrics, and the tables of all runs would fill the disk.
    run.drop_checkpoints()
    return judged


def time_steps(values: dict[str, Any], root: Path, threads: int) -> float:
    """Time the steps of a finished run and add the step time to its results, unless they have it.

    Args:
        values: configuration of the run.
        root: folder of the runs.
        threads: number of threads to compute with.

    Returns:
        Step time in milliseconds, as from `step_ms`. Errors are those of `train`.
    """
    data = _begun()
    config = from_dict(values)
    device = find_device(config.device)
    folder = run_path(config, data, root, device)
    results = FinishedRun.open(folder, config.fingerprint(data.fingerprint))
    if STEP_TIME not in results.files:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with init_process_group(device, config.timeout):
                measured = step_ms(config, data, device)
        finally:
            torch.set_num_threads(before)
        results = results.with_result(STEP_TIME, {"step_ms_apart": measured})
    return float(results.read_json(STEP_TIME)["step_ms_apart"])


def _begun() -> PreparedData:
    """Return the samples of this process."""
    if _data is None:
        raise RuntimeError("This worker has no data. Call begin before the first run.")
    return _data


def _diagnose(config: RunConfig, data: PreparedData, run: RunDirectory, device: torch.device) -> None:
    """Add the curvature of a finished run to its results, unless they have it."""
    results = FinishedRun.open(run.path, config.fingerprint(data.fingerprint))
    if CURVATURE not in results.files:
        measured = curvature_by_band(config, data, run, device)
        results.with_result(CURVATURE, measured and asdict(measured))


def curvature_by_band(
    config: RunConfig, data: PreparedData, run: RunDirectory, device: torch.device
) -> CurvatureByBand | None:
    """Measure curvature and squared gradient at the embeddings of a finished run. Requires a process group.

    Args:
        config: configuration of the run.
        data: samples of the comparison; the validation samples are used.
        run: run directory with a checkpoint.
        device: device to compute on.

    Returns:
        Means by table and band; None for a model without an exact diagonal or without features of single tokens.
    """
    schema = data.preprocessing.schema
    if not schema.tokens:
        return None
    num_rows = data.preprocessing.num_rows
    state = TrainState(config, schema, num_rows, device, values_per_bag=data.values_per_bag)
    try:
        estimator = ExactDiagonal(parts=state.head.parts)
    except ValueError:
        return None
    checkpoint = load_newest_good(run.checkpoints, *config.checkpoint_fingerprints(data.fingerprint))
    if checkpoint is None:
        return None
    state.restore_(checkpoint)
    rows = data.split.val[:_CURVATURE_SAMPLES]
    curvature, squared = [], []
    for batch in on_device(Loader(data, rows, SCORING_BATCH).batches(0), device):
        with torch.no_grad():
            pooled = state.lookup(batch.kjt)
        samples = len(batch.labels)
        found = estimator(state.head, batch.dense, pooled, batch.labels, curvature_samples=samples)
        if found.pooled_curvature is not None:
            curvature.append((found.pooled_curvature.sum(2) * samples).cpu().numpy())
        squared.append((found.pooled_grad * samples).square().sum(2).cpu().numpy())
    bands = bands_of_samples(data, band_of_ids(data), np.arange(rows.start, rows.stop))
    tokens = len(schema.tokens)  # without bags, whose tokens can be in several bands
    return CurvatureByBand(
        tables=list(schema.features[:tokens]),
        curvature=_nested(mean_by_table_and_band(bands, np.concatenate(curvature)[:, :tokens])),
        squared_gradient=_nested(mean_by_table_and_band(bands, np.concatenate(squared)[:, :tokens])),
    )


def _nested(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, so a killed comparison leaves no training process behind."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _end_without(folder: Path, seconds: float) -> None:
    """End this process, because it lost the lease of a run, and the new holder writes to the same files."""
    logger.error(
        "Stopping this process: it did not respond for half of %g s, and another process may have taken over its run %s.",
        seconds,
        folder,
    )
    os._exit(1)
