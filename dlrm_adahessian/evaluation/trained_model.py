# pyright: basic
"""Load a run as a model for predictions: one of its checkpoints, with its vocabulary."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.checkpoint import step_folders
from dlrm_adahessian.checkpoint.reader import LOOKS, Checkpoint, load, replaced
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.loader import make_batch
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.text.sources import is_prepared
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.evaluation.calibration.maps import CalibrationMap
from dlrm_adahessian.evaluation.calibration.stored import Calibration, CalibrationRows
from dlrm_adahessian.evaluation.origin import Origin, contents
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runtime.device import Precision
from dlrm_adahessian.train.learnt import newest_checkpoint, preprocessing_of
from dlrm_adahessian.train.recorded import RecordedRun
from dlrm_adahessian.train.state import SCORING_BATCH, TrainState


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """The trained model of a run. Needs a process group.

    Attributes:
        name: name in reports: that of the run, plus the step if a checkpoint was named.
        run: run directory.
        config: settings of the run.
        fingerprint: fingerprint of everything that determines its results.
        rows_fingerprint: fingerprint of its prepared data.
        origin: raw files of that data, if known.
        preprocessing: preprocessing for raw samples.
        state: the model, with the values of the checkpoint.
        checkpoint: the loaded checkpoint.
        calibration: calibration of its logits; None for uncalibrated predictions.
        calibration_rows: samples that the calibration was fitted on; None without one.
    """

    name: str
    run: Path
    config: RunConfig
    fingerprint: str
    rows_fingerprint: str
    origin: Origin | None
    preprocessing: Preprocessing
    state: TrainState
    checkpoint: Checkpoint
    calibration: CalibrationMap | None = None
    calibration_rows: CalibrationRows | None = None

    def score(self, features: Features) -> npt.NDArray[np.float32]:
        """Return the probabilities (N,) float32 of samples with features from this preprocessing."""
        names = self.preprocessing.schema.features
        parts = (features[start : start + SCORING_BATCH] for start in range(0, len(features), SCORING_BATCH))
        unlabelled = np.zeros(SCORING_BATCH, np.int8)  # scoring ignores labels
        batches = (make_batch(names, part, unlabelled[: len(part)]) for part in parts)
        return np.concatenate([self.probability(part) for part in self.state.logits(batches)])

    def contents(self, path: str) -> list[dict[str, Any]]:
        """Return records that identify the files of an input, read with this model's schema; empty for a pipe."""
        return contents(path, self.preprocessing.schema.format, self.config.data.cache_dir)

    def is_calibrated_on(self, paths: Sequence[str], part: str) -> bool:
        """Return whether the calibration was fitted on some of the samples in an evaluation; False if unknown."""
        if self.calibration_rows is None:
            return False
        own = part != "all" or is_prepared(paths[0])  # prepared data and parts of other runs are not accepted
        files = [] if own else [file for path in paths for file in self.contents(path)]
        return self.calibration_rows.share(files, part=part, own=own)

    def probability(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the probabilities (N,) of logits (N,) from the checkpoint, calibrated if requested."""
        return probability_from_logit(logits if self.calibration is None else self.calibration(logits))


def run_of(path: Path) -> RunDirectory:
    """Return the run directory of a path to it or to one of its checkpoints."""
    path = path.absolute()  # so that "." has a name too
    return RunDirectory(path.parent.parent if step_folders.step_of(path) is not None else path)


def open_trained(
    path: Path,
    device: torch.device,
    *,
    best: bool,
    precision: Precision | None = None,
    calibrated: bool = False,
) -> TrainedModel:
    """Load a model, and verify every byte.

    Args:
        path: a run directory, for its newest valid checkpoint, or one checkpoint in it.
        device: device of the model.
        best: load the checkpoint of the best validation. Runs with patience always do.
        precision: precision of matrix products; None for that of the run.
        calibrated: apply the run's calibration, which must be of this checkpoint.

    Returns:
        The model. Raises a `CheckpointError` if vocabulary, checkpoints, or calibration are damaged or do not fit.
    """
    path, run = path.absolute(), run_of(path)
    named = run.path != path
    recorded = RecordedRun.read(run)
    config, rows = recorded.config, recorded.rows
    calibration = Calibration.read(run.path) if calibrated else None
    preprocessing, manifest = preprocessing_of(recorded)

    def find() -> Checkpoint:
        found = (
            load(path, *config.checkpoint_fingerprints(rows))
            if named
            else newest_checkpoint(recorded, best=best)
        )
        found.require_sizes_of(config.model, preprocessing.schema, preprocessing.num_rows)
        if calibration is not None:
            calibration.require(found, run.path)
        return found

    found = find()
    computed = dataclasses.replace(config, precision=precision or config.precision)
    state = TrainState(
        computed,
        preprocessing.schema,
        preprocessing.num_rows,
        device,
        values_per_bag=manifest.get("values_per_bag"),  # missing in older runs
    )
    found = _restored(state, found, find)
    return TrainedModel(
        name=f"{run.path.name}@{found.step}" if named else run.path.name,
        run=run.path,
        config=config,
        fingerprint=config.fingerprint(rows),
        rows_fingerprint=rows,
        origin=Origin.of(recorded.prepared, preprocessing.schema.format, config.data.cache_dir),
        preprocessing=preprocessing,
        state=state,
        checkpoint=found,
        calibration=calibration and calibration.map,
        calibration_rows=calibration and calibration.rows,
    )


def _restored(state: TrainState, found: Checkpoint, find: Callable[[], Checkpoint]) -> Checkpoint:
    """Restore a checkpoint. If a run in training replaced it in the meantime, find and restore the next; return it."""
    for _ in range(LOOKS):
        try:
            state.restore_(found)
        except CheckpointError:
            if found.path.exists():
                raise
            found = find()
        else:
            return found
    raise replaced(found.path.parent)
