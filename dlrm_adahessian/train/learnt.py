# pyright: basic
"""Load what a run has learned, with verification: its preprocessing and its checkpoints."""

from collections.abc import Mapping
from typing import Any

from dlrm_adahessian.checkpoint.reader import Checkpoint, load_newest_good
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.errors import CheckpointError, NoInputError
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runs.sealed import DamagedFolderError, read_sealed
from dlrm_adahessian.train.recorded import RecordedRun


def preprocessing_of(recorded: RecordedRun) -> tuple[Preprocessing, Mapping[str, Any]]:
    """Read the preprocessing of a run's data.

    Args:
        recorded: the run.

    Returns:
        The preprocessing, and the manifest of its folder.

    Raises:
        CheckpointError: the folder is damaged, or belongs to other data.
    """
    folder = RunDirectory(recorded.folder).vocabulary
    try:
        manifest = read_sealed(folder)
        preprocessing = Preprocessing.load(folder, manifest)
    except DamagedFolderError as error:
        raise CheckpointError(f"{error}. Restore {folder} from a copy, or train again.") from error
    if preprocessing.fingerprint != recorded.rows:
        raise CheckpointError(
            f"{folder} belongs to other data than this run was trained on. Restore it from a copy."
        )
    return preprocessing, manifest


def newest_checkpoint(recorded: RecordedRun, *, best: bool = False) -> Checkpoint:
    """Load the newest valid checkpoint of a run. A collective: all ranks call it.

    Args:
        recorded: the run.
        best: load the checkpoint with the best validation. Runs with patience always do.

    Returns:
        The checkpoint.

    Raises:
        NoInputError: there is no checkpoint. Other errors are those of `load_newest_good`.
    """
    run, config = RunDirectory(recorded.folder), recorded.config
    checkpoints = run.best if config.patience or best else run.checkpoints
    found = load_newest_good(checkpoints, *config.checkpoint_fingerprints(recorded.rows))
    if found is None:
        raise NoInputError(
            f"{checkpoints} contains no checkpoint. Train with --out {run.path} first"
            + (", and validate more than once with --eval-every or --epochs." if best else ".")
        )
    return found
