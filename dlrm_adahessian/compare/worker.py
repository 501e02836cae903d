# pyright: basic
"""A process that trains one run after another, and measures where their curvature lies and how long their steps take."""

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
"""What `curvature_by_band` found, in the run directory."""
STEP_TIME = "step_time.json"
"""What `time_steps` measured, in the run directory."""
_CURVATURE_SAMPLES = 64 * 1024
logger = logging.getLogger(__name__)
_data: PreparedData | None = None  # of this process; set once, before its first run


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A finished run without its predictions.

    Attributes:
        summary: its results; None when it diverged.
        logloss: by which trials are chosen; None when it diverged.
    """

    summary: RunSummary | None = None
    logloss: float | None = None


def begin(folder: Path, threads: int, parent: int) -> None:
    """Prepare a process for its runs.

    Args:
        folder: prepared samples, verified here.
        threads: of each run.
        parent: process that this one ends with; not asked for here, where it may be gone already.
    """
    global _data
    logging.root.handlers.clear()  # those of libraries, which were imported with this module
    quiet_libraries()
    logging.getLogger("dlrm_adahessian").setLevel(logging.ERROR)
    # Of all that a run tells, that a finished one is trained anew concerns who waits for the comparison.
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
        values: its configuration.
        root: holds a folder per run.
        select: the samples that judge it.
        diagnose: measure the curvature of the trained model.
        lease: seconds without a sign of life after which a process that trains counts as dead.

    Returns:
        What is known of it, or who trains it. A process that was not begun is a RuntimeError.
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
    """Return what a run came to, or None where something of it is still to be done."""
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
    except DamagedFolderError:  # who trains it anew tells
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
    """Do what is still to be done of a run, whose lease is held; needs a process group."""
    judged = Judged()
    if not is_known_to_diverge(config, data, run):
        try:
            if (found := find_or_fit(config, data, run.path.parent, device, title=None)) is not None:
                judged = _judged(config, found, select)
            if diagnose:
                _diagnose(config, data, run, device)
        except DivergedError as error:
            FinishedRun.seal_divergence(run.path, config.fingerprint(data.fingerprint), str(error))
    # Predictions and metrics are all that a comparison reads; the tables of every run would fill the disk.
    run.drop_checkpoints()
    return judged


def time_steps(values: dict[str, Any], root: Path, threads: int) -> float:
    """Time the steps of a finished run, and add what they take to its results, unless it is there.

    Args:
        values: its configuration.
        root: holds a folder per run.
        threads: that compute.

    Returns:
        Milliseconds, as `step_ms`; refuses as `train`.
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
        raise RuntimeError("a worker must be begun before its first run; call begin")
    return _data


def _diagnose(config: RunConfig, data: PreparedData, run: RunDirectory, device: torch.device) -> None:
    """Add the curvature of a finished run to its results, unless it is there."""
    results = FinishedRun.open(run.path, config.fingerprint(data.fingerprint))
    if CURVATURE not in results.files:
        measured = curvature_by_band(config, data, run, device)
        results.with_result(CURVATURE, measured and asdict(measured))


def curvature_by_band(
    config: RunConfig, data: PreparedData, run: RunDirectory, device: torch.device
) -> CurvatureByBand | None:
    """Measure curvature and squared gradient at the embeddings of a finished run; needs a process group.

    Args:
        config: of the run.
        data: its samples, of which those for validation are taken.
        run: the run directory, with its checkpoint.
        device: to compute on.

    Returns:
        Means by table and band; None for a model without an exact diagonal, or without tables of tokens.
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
    tokens = len(schema.tokens)  # a bag has several, of several bands
    return CurvatureByBand(
        tables=list(schema.features[:tokens]),
        curvature=_nested(mean_by_table_and_band(bands, np.concatenate(curvature)[:, :tokens])),
        squared_gradient=_nested(mean_by_table_and_band(bands, np.concatenate(squared)[:, :tokens])),
    )


def _nested(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: a killed comparison leaves nothing behind that trains on."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _end_without(folder: Path, seconds: float) -> None:
    """End this process, whose lease of a run is lost: whoever has it now writes to the same files."""
    logger.error(
        "%s may be another's by now, as this process gave no sign of life for half of %g s; it ends, to leave the run alone",
        folder,
        seconds,
    )
    os._exit(1)
