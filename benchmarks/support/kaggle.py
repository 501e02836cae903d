"""Generate ids like those of Criteo Kaggle: published cardinalities times a scale, and fitted frequencies."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.synthetic.marginals import (
    C1_TOP_SHARES,
    CLICKS,
    INTEGERS,
    ROWS,
    TOKENS,
    Ranges,
    cardinality,
    fit_tokens,
)


def table_sizes(scale: float = 1.0) -> list[int]:
    """Return the number of rows of the 26 tables: one per distinct token, and one for a missing token."""
    return [1 + cardinality(marginal, scale) for marginal in TOKENS]


def token_distributions(scale: float = 1.0) -> list[Ranges]:
    """Return the fitted distribution over ranks for each of the 26 features."""
    return [
        fit_tokens(marginal, scale, C1_TOP_SHARES if i == 0 else None) for i, marginal in enumerate(TOKENS)
    ]


def draw_ids(distributions: list[Ranges], batch: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw the ids of a batch, (26, B): 0 for a missing token, else 1 + its rank by frequency."""
    ids = np.empty((len(TOKENS), batch), np.int64)
    for row, marginal, ranges in zip(ids, TOKENS, distributions, strict=True):
        picked = np.searchsorted(ranges.mass.cumsum(), rng.random(batch) * ranges.mass.sum(), side="right")
        picked = np.minimum(picked, len(ranges.mass) - 1)
        rank = ranges.low[picked] + (rng.random(batch) * ranges.width[picked]).astype(np.int64)
        row[:] = np.where(rng.random(batch) < marginal.missing / ROWS, 0, 1 + rank)
    return ids


def batches(batch: int, scale: float, rng: np.random.Generator) -> Iterator[Batch]:
    """Yield random batches without end. Ids follow the marginal distributions, and numbers and labels are uniform."""
    distributions = token_distributions(scale)
    while True:
        dense = rng.random((batch, len(INTEGERS)), np.float32)
        labels = (rng.random(batch) < CLICKS / ROWS).astype(np.int8)
        ids = draw_ids(distributions, batch, rng).T.astype(np.int32)
        yield make_batch(CRITEO.features, Features(dense=dense, ids=ids), labels)
