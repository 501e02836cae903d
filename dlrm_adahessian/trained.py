# pyright: basic
"""A finished run as a model: its checkpoint, with the vocabulary that it was trained on."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from dlrm_adahessian.artifacts import RunDirectory
from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.vocabulary import Vocabulary
from dlrm_adahessian.distributed.checkpoint import Checkpoint, load_newest_good
from dlrm_adahessian.errors import CheckpointError, NoInputError
from dlrm_adahessian.state import TrainState
from dlrm_adahessian.storage import DamagedFolderError, read_sealed


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a run has learnt.

    Attributes:
        config: the run's own.
        fingerprint: of what determines its results.
        vocabulary: tokens to table rows.
        state: the model, with the checkpoint's values.
        checkpoint: where they are from.
    """

    config: RunConfig
    fingerprint: str
    vocabulary: Vocabulary
    state: TrainState
    checkpoint: Checkpoint


def open_trained(path: Path, device: torch.device, *, best: bool) -> TrainedModel:
    """Load the newest good checkpoint of a run; it computes with exact float32 products, whatever the run did.

    Args:
        path: its run directory.
        device: where the model lives; needs a process group.
        best: the checkpoint of the best validation, which runs with patience take in any case.

    Returns:
        The model.

    Raises:
        CheckpointError: vocabulary or checkpoints are damaged or belong to something else.
        NoInputError: there is no checkpoint.
    """
    run = RunDirectory(path)
    resolved = run.read_config()
    rows = resolved.pop("prepared", {}).get("fingerprint")
    config = from_dict(resolved)
    try:
        manifest = read_sealed(run.vocabulary)
        vocabulary = Vocabulary.load(run.vocabulary)
    except DamagedFolderError as error:
        raise CheckpointError(f"{error}; restore {run.vocabulary} from a copy, or train again") from error
    if manifest.get("fingerprint") != rows:
        raise CheckpointError(
            f"{run.vocabulary} belongs to other rows than this run was trained on; restore it from a copy"
        )
    checkpoints = run.best if config.patience or best else run.checkpoints
    fingerprint = config.fingerprint(manifest["fingerprint"])
    found = load_newest_good(checkpoints, fingerprint)
    if found is None:
        raise NoInputError(
            f"{checkpoints} holds no checkpoint; train with --out {path} first"
            + (", and validate more than once, by --eval-every or --epochs" if best else "")
        )
    state = TrainState(dataclasses.replace(config, precision="fp32"), vocabulary.num_rows, device)
    state.restore_(found)
    return TrainedModel(
        config=config,
        fingerprint=fingerprint,
        vocabulary=vocabulary,
        state=state,
        checkpoint=found,
    )
