# pyright: basic
"""Where the curvature of a trained model lies: by table and by frequency of the token."""

from typing import Any

import numpy as np
import torch

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.compare.bands import band_of_ids, bands_of_rows, mean_by_table_and_band
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.curvature.exact import ExactDiagonal, refuse_inexact
from dlrm_adahessian.data.loader import Loader, on_device
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.schema import TOKEN_NAMES
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.train.step import SCORING_BATCH, TrainState

_ROWS = 64 * 1024


def curvature_by_band(
    config: RunConfig, data: PreparedData, run: RunDirectory, device: torch.device
) -> dict[str, Any] | None:
    """Measure curvature and squared gradient at the embeddings of a finished run; needs a process group.

    Args:
        config: of the run.
        data: its samples, of which those for validation are taken.
        run: the run directory, with its checkpoint.
        device: to compute on.

    Returns:
        `tables`, and means per token (table, band) summed over the embedding: `curvature`, of one sample's log loss, and
        `squared_gradient`, whose expectation is the curvature where the model is calibrated. None for a model without an
        exact diagonal.
    """
    state = TrainState(config, data.vocabulary.num_rows, device)
    try:
        refuse_inexact(state.head, TOKEN_NAMES)
    except ValueError:
        return None
    checkpoint = load_newest_good(run.checkpoints, config.fingerprint(data.fingerprint))
    if checkpoint is None:
        return None
    state.restore_(checkpoint)
    rows = data.split.val[:_ROWS]
    curvature, squared = [], []
    for batch in on_device(Loader(data, rows, SCORING_BATCH).batches(0), device):
        with torch.no_grad():
            pooled = state.lookup(batch.kjt)
        samples = len(batch.labels)
        found = ExactDiagonal()(state.head, batch.dense, pooled, batch.labels, curvature_samples=samples)
        if found.pooled_curvature is not None:
            curvature.append((found.pooled_curvature.sum(2) * samples).cpu().numpy())
        squared.append((found.pooled_grad * samples).square().sum(2).cpu().numpy())
    bands = bands_of_rows(data, band_of_ids(data), np.arange(rows.start, rows.stop))
    return {
        "tables": list(TOKEN_NAMES),
        "curvature": _nested(mean_by_table_and_band(bands, np.concatenate(curvature))),
        "squared_gradient": _nested(mean_by_table_and_band(bands, np.concatenate(squared))),
    }


def _nested(values: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in values]
