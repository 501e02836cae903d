# pyright: basic
"""Select the samples of a run, their order, and the labels and weights that predictions are compared with."""

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.config import RunConfig, SharedConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.loader import Loader
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.train.results import Predicted


def open_samples(config: SharedConfig, *, extends: Preprocessing | None = None) -> PreparedData:
    """Return the prepared data for these settings; `extends` and errors are those of `open_dataset`."""
    return open_dataset(
        config.dataset,
        config.data_path,
        config.data,
        rows=config.rows,
        bad_rows=config.bad_rows,
        schema=config.schema,
        extends=extends,
    )


def predicted(
    data: PreparedData, rows: range | npt.NDArray[np.int64], probability: npt.NDArray[np.float32]
) -> Predicted:
    """Return the predictions (N,) of some samples, with their labels and population weights."""
    places = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
    return Predicted(np.asarray(data.labels[places]), probability, data.population_weights(places))


def require_weight(data: PreparedData) -> None:
    """Raise a DataError if all validation samples have weight 0, because no model could be evaluated."""
    rows = data.split.val
    if data.weights is not None and not data.weights[rows.start : rows.stop].any():
        raise DataError(
            f"All {len(rows):,} validation samples have weight 0. Give some of the last samples a positive weight, or leave "
            "out the weights."
        )


def training_rows(config: RunConfig, data: PreparedData) -> range:
    """Return the indices of the training samples of one epoch."""
    rows, wanted = data.split.train, config.data.train_rows
    return rows if wanted is None else rows[-wanted:]


def training_loader(config: RunConfig, data: PreparedData, *, pinned: bool = False) -> Loader:
    """Return a loader of this rank's share of the batches."""
    return Loader(
        data,
        training_rows(config, data),
        config.batch_size,
        order=config.data.order,
        seed=config.seed,
        prefetch=config.data.prefetch,
        pinned=pinned,
        rank=ranks.rank(),
        world_size=ranks.world_size(),
    )


def progressive(
    config: RunConfig, data: PreparedData, loader: Loader, probability: npt.NDArray[np.float32]
) -> Predicted:
    """Return the progressive predictions to evaluate, with their labels: from the second day on, or all after a warm start.

    On the first day, random weights predict badly with any optimizer. With shuffled samples, as many are left out.
    """
    order = loader.row_order(0)
    first_day = data.split.days[1] * len(order) // len(data.split.train)
    if config.init_from is not None:
        first_day = 0
    order = order[: len(probability)]
    later = slice(min(first_day, len(order)), None)
    return predicted(data, order[later], np.array(probability[later]))
