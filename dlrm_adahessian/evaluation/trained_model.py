# pyright: basic
"""A run as a model: one of its checkpoints, with the vocabulary that it was trained on."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.checkpoint import step_folders
from dlrm_adahessian.checkpoint.reader import LOOKS, Checkpoint, load, replaced
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.loader import make_batch
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.evaluation.origin import Origin
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runtime.device import Precision
from dlrm_adahessian.train.learnt import newest_checkpoint, preprocessing_of
from dlrm_adahessian.train.recorded import RecordedRun
from dlrm_adahessian.train.step import SCORING_BATCH, TrainState


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

    def score(self, features: Features) -> npt.NDArray[np.float32]:
        """Return the probabilities (N,) float32 of rows whose features this preprocessing made."""
        names = self.preprocessing.schema.features
        parts = (features[start : start + SCORING_BATCH] for start in range(0, len(features), SCORING_BATCH))
        unlabelled = np.zeros(SCORING_BATCH, np.int8)  # scoring reads no labels
        return self.state.score(make_batch(names, part, unlabelled[: len(part)]) for part in parts)


def open_trained(
    path: Path, device: torch.device, *, best: bool, precision: Precision | None = None
) -> TrainedModel:
    """Read a model, verifying every byte.

    Args:
        path: a run directory, of which the newest good checkpoint counts, or one checkpoint in it.
        device: where the model lives.
        best: of a run directory, the checkpoint of the best validation, which runs with patience take in any case.
        precision: of matrix products; None is the run's own.

    Returns:
        The model; a `CheckpointError` where vocabulary or checkpoints are damaged or belong to something else.
    """
    path = path.absolute()  # of "." too the name is the folder's
    named = step_folders.step_of(path) is not None
    run = RunDirectory(path.parent.parent if named else path)
    recorded = RecordedRun.read(run)
    config, rows = recorded.config, recorded.rows
    preprocessing, manifest = preprocessing_of(recorded)

    def find() -> Checkpoint:
        found = (
            load(path, *config.checkpoint_fingerprints(rows))
            if named
            else newest_checkpoint(recorded, best=best)
        )
        found.require_sizes_of(config.model, preprocessing.schema, preprocessing.num_rows)
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
