# pyright: basic
"""The model of a run with the vocabulary that it was trained on, ready to score."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.artifacts import RunDirectory
from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.loader import make_batch
from dlrm_adahessian.data.vocabulary import Vocabulary
from dlrm_adahessian.distributed import step_folders
from dlrm_adahessian.distributed.checkpoint import Checkpoint, load, load_newest_good
from dlrm_adahessian.errors import CheckpointError, NoInputError
from dlrm_adahessian.state import SCORING_BATCH, TrainState
from dlrm_adahessian.storage import DamagedFolderError, read_sealed


class Scorer:
    """One model; needs a process group.

    Attributes:
        run: its run directory.
        name: what reports call it: the run's, with the step where one checkpoint was named.
        checkpoint: that was taken.
        vocabulary: tokens to table rows.
        rows_fingerprint: of the prepared rows that it was trained on.
    """

    def __init__(self, path: Path, device: torch.device, *, best: bool) -> None:
        """Read a model, verifying every byte.

        Args:
            path: a run directory, or one checkpoint in it.
            device: where to compute.
            best: of a run directory, use the checkpoint of the best validation even where the run did not stop early.

        Raises:
            CheckpointError: the run's vocabulary is damaged, or belongs to other rows.
        """
        named = step_folders.step_of(path) is not None
        self.run = path.parent.parent if named else path
        directory = RunDirectory(self.run)
        resolved = directory.read_config()
        trained_on = resolved.pop("prepared", {})
        config = from_dict(resolved)
        folder = directory.vocabulary
        try:
            manifest = read_sealed(folder)
            self.vocabulary = Vocabulary.load(folder)
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}; restore {folder} from a copy, or train again") from error
        self.rows_fingerprint = trained_on.get("fingerprint")
        if manifest.get("fingerprint") != self.rows_fingerprint:
            raise CheckpointError(
                f"{folder} belongs to other rows than this run was trained on; restore it from a copy"
            )
        fingerprint = config.fingerprint(manifest["fingerprint"])
        self._state = TrainState(config, self.vocabulary.num_rows, device)
        self.checkpoint = (
            load(path, fingerprint) if named else _newest(directory, config, fingerprint, best=best)
        )
        self._state.restore_(self.checkpoint)
        self.name = f"{self.run.name}@{self.checkpoint.step}" if named else self.run.name

    def score(self, dense: npt.NDArray[np.float32], ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Return the probabilities of a block of rows.

        Args:
            dense: (N, 13).
            ids: (N, 26) of this vocabulary.

        Returns:
            (N,) float32.
        """
        parts = (slice(start, start + SCORING_BATCH) for start in range(0, len(ids), SCORING_BATCH))
        unlabelled = np.zeros(SCORING_BATCH, np.int8)  # scoring reads no labels
        return self._state.score(
            make_batch(dense[part], ids[part], unlabelled[: len(ids[part])]) for part in parts
        )


def _newest(run: RunDirectory, config: RunConfig, fingerprint: str, *, best: bool) -> Checkpoint:
    checkpoints = run.best if config.patience or best else run.checkpoints
    found = load_newest_good(checkpoints, fingerprint)
    if found is None:
        raise NoInputError(
            f"{checkpoints} holds no checkpoint; train with --out {run.path} first"
            + (", and validate more than once, by --eval-every or --epochs" if best else "")
        )
    return found
