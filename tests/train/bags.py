"""A data set with bags of 0 to 20 tokens, which repeat within and across bags."""

from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.rows import Bags, Features, offsets_of
from dlrm_adahessian.data.schema import BagColumn, Schema

BAGS = Schema(
    label=CRITEO.label,
    dense=CRITEO.dense,
    tokens=CRITEO.tokens[:3],
    bags=tuple(BagColumn(column=name) for name in ("seen", "liked", "shops", "rare")),
)
BAG_ROWS = [2, 15, 40, 2, 15, 60, 5]
"""Number of embedding rows of each table of `BAGS`."""


def data_of_bags(dense: npt.NDArray[np.float32], labels: npt.NDArray[np.int8]) -> SimpleNamespace:
    """Generate tokens and bags for some samples. The last bag is empty in most of them."""
    rng, samples, tokens = np.random.default_rng(4), len(labels), len(BAGS.tokens)
    ids = [rng.integers(rows, size=samples, dtype=np.int32) for rows in BAG_ROWS[:tokens]]
    filled = [0.9, 0.9, 0.9, 0.2]
    bags = [
        drawn_bags(rows, samples, rng, filled=share)
        for rows, share in zip(BAG_ROWS[tokens:], filled, strict=True)
    ]
    return SimpleNamespace(
        features=Features(dense=dense, ids=np.stack(ids, 1), bags=tuple(bags)),
        labels=labels,
        weights=None,
        preprocessing=SimpleNamespace(schema=BAGS),
    )


def drawn_bags(
    rows: int, samples: int, rng: np.random.Generator, *, filled: float = 1.0, most: int = 20
) -> Bags:
    """Choose 0 to `most` embedding rows for each sample; only a share of the samples gets any."""
    offsets = offsets_of(rng.integers(most + 1, size=samples) * (rng.random(samples) < filled))
    return Bags(values=rng.integers(rows, size=offsets[-1], dtype=np.int32), offsets=offsets)
