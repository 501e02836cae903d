# pyright: basic
"""A run as a model: one of its checkpoints, with the vocabulary that it was trained on."""

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
    """What a run has learnt; needs a process group.

    Attributes:
        name: what reports call it: the run's, with the step where one checkpoint was named.
        run: its run directory.
        config: the run's own.
        fingerprint: of what determines its results.
        rows_fingerprint: of the prepared rows that it was trained on.
        origin: what these were prepared from, where that is known.
        preprocessing: of raw rows.
        state: the model, with the checkpoint's values.
        checkpoint: where they are from.
        calibration: of its logits; None where they are taken as they are.
        calibration_rows: that it was fitted on; None without one.
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
        """Return the probabilities (N,) float32 of rows whose features this preprocessing made."""
        names = self.preprocessing.schema.features
        parts = (features[start : start + SCORING_BATCH] for start in range(0, len(features), SCORING_BATCH))
        unlabelled = np.zeros(SCORING_BATCH, np.int8)  # scoring reads no labels
        batches = (make_batch(names, part, unlabelled[: len(part)]) for part in parts)
        return np.concatenate([self.probability(part) for part in self.state.logits(batches)])

    def contents(self, path: str) -> list[dict[str, Any]]:
        """Return what identifies the files of an input, which is read by this model's schema; nothing of a pipe."""
        return contents(path, self.preprocessing.schema.format, self.config.data.cache_dir)

    def is_calibrated_on(self, paths: Sequence[str], part: str) -> bool:
        """Whether its calibration was fitted on some of the rows that an evaluation reads; False where that is not known."""
        if self.calibration_rows is None:
            return False
        own = part != "all" or is_prepared(paths[0])  # other prepared rows and parts are refused
        files = [] if own else [file for path in paths for file in self.contents(path)]
        return self.calibration_rows.share(files, part=part, own=own)

    def probability(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the probabilities (N,) of logits (N,) that the checkpoint serves, calibrated where that was asked for."""
        return probability_from_logit(logits if self.calibration is None else self.calibration(logits))


def run_of(path: Path) -> RunDirectory:
    """Return the run directory of a path that names it, or one of its checkpoints."""
    path = path.absolute()  # of "." too the name is the folder's
    return RunDirectory(path.parent.parent if step_folders.step_of(path) is not None else path)


def open_trained(
    path: Path,
    device: torch.device,
    *,
    best: bool,
    precision: Precision | None = None,
    calibrated: bool = False,
) -> TrainedModel:
    """Read a model, verifying every byte.

    Args:
        path: a run directory, of which the newest good checkpoint counts, or one checkpoint in it.
        device: where the model lives.
        best: of a run directory, the checkpoint of the best validation, which runs with patience take in any case.
        precision: of matrix products; None is the run's own.
        calibrated: predict with the calibration of the run, which is of this checkpoint.

    Returns:
        The model; a `CheckpointError` where vocabulary, checkpoints or calibration are damaged or belong to something else.
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
        values_per_bag=manifest.get("values_per_bag"),  # older runs do not say
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
    """Take up a checkpoint, or where a run in training replaced it meanwhile, the one that is found now; return which."""
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
