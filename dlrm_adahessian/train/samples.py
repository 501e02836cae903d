# pyright: basic
"""Which samples a run trains on, in which order, and what they are judged by: labels, and weights where there are any."""

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
    """Return the prepared rows that settings name; `extends`, and what is refused, are those of `open_dataset`."""
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
    """Return the predictions (rows,) of some rows with their labels and weights in the population."""
    places = slice(rows.start, rows.stop) if isinstance(rows, range) else rows
    return Predicted(np.asarray(data.labels[places]), probability, data.population_weights(places))


def require_weight(data: PreparedData) -> None:
    """Refuse validation samples of which none has weight: nothing could be judged by them; raises a DataError."""
    rows = data.split.val
    if data.weights is not None and not data.weights[rows.start : rows.stop].any():
        raise DataError(
            f"validation needs samples with weight, and all {len(rows):,} of them have weight 0; give some of the last rows "
            "a weight, or leave the weights out"
        )


def training_rows(config: RunConfig, data: PreparedData) -> range:
    """Return the rows of one epoch."""
    rows, wanted = data.split.train, config.data.train_rows
    return rows if wanted is None else rows[-wanted:]


def training_loader(config: RunConfig, data: PreparedData, *, pinned: bool = False) -> Loader:
    """Return this rank's share of the batches of a run."""
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
    """Return labels and predictions (rows,) of those that count: of a run that starts from another all, else the later ones.

    Random weights predict the first day badly, whatever learns. Of shuffled rows as many are left out.
    """
    order = loader.row_order(0)
    first_day = data.split.days[1] * len(order) // len(data.split.train)
    if config.init_from is not None:
        first_day = 0
    order = order[: len(probability)]
    later = slice(min(first_day, len(order)), None)
    return predicted(data, order[later], np.array(probability[later]))
