# pyright: basic
"""The samples of a run: those that it trains on, in which batches, and those that its progressive validation counts."""

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.loader import Loader
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.runs.run_directory import PredictionLog
from dlrm_adahessian.train.results import Predicted


def labels_of(data: PreparedData, rows: range) -> npt.NDArray[np.int8]:
    """Return the labels of rows, (rows,) int8."""
    return np.asarray(data.labels[rows.start : rows.stop])


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


def progressive(data: PreparedData, loader: Loader, log: PredictionLog) -> Predicted:
    """Return labels and predictions from the second day on; of shuffled rows, after as many rows."""
    order = loader.row_order(0)
    first_day = data.split.days[1] * len(order) // len(data.split.train)
    order = order[: log.rows]
    later = slice(min(first_day, len(order)), None)
    return Predicted(data.labels[order[later]], np.array(log.read()[later]))
