"""Draw the columns of a schema for generated data, and write tokens as text.

A dense column is lognormal if the model reads its logarithm, else normal. Tokens follow Zipf's law up to the cardinality of
their column: its `buckets`, or one of Criteo's published cardinalities in turn, so that some columns are large and some
small. A bag has a geometric number of values. Values are missing independently, and columns are independent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dlrm_adahessian.data.columnar.hashing import pc
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.rows import Bags, offsets_of
from dlrm_adahessian.data.schema import BagColumn, Schema, TokenColumn, Transform
from dlrm_adahessian.data.synthetic.marginals import TOKENS, cardinality

MISSING_RATE = 0.1
"""Share of samples in which a dense or token column is missing."""
NO_TOKEN = -1
"""Rank of a missing token."""

_EXPONENT = 1.1  # of Zipf's law: the first of 200,000 tokens occurs in a tenth of the samples
_ANOTHER = 0.8  # probability of one more value in a bag: mean length 4, a fifth of the bags empty
_VALUES: Mapping[Transform, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "log1p": lambda normal: np.exp(1 + 1.5 * normal),
    "none": lambda normal: normal,
    "standardize": lambda normal: 100 + 15 * normal,
}


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Random columns of N samples, before the transforms of the schema.

    Attributes:
        dense: (N, K) float64 standard normal numbers from which the values are computed, NaN if missing.
        tokens: (N, T) int64 ranks by frequency, starting at 0; `NO_TOKEN` if missing.
        bags: ranks of each bag column.
        weights: (N,) float32 in [0.5, 1.5); None if the schema has no weight.
        uniform: (N,) float64 in [0, 1), from which the label is drawn.
    """

    dense: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bags: list[Bags]
    weights: npt.NDArray[np.float32] | None
    uniform: npt.NDArray[np.float64]

    def __getitem__(self, rows: slice) -> "Draws":
        """Return some of the samples."""
        return Draws(
            dense=self.dense[rows],
            tokens=self.tokens[rows],
            bags=[bags[rows] for bags in self.bags],
            weights=None if self.weights is None else self.weights[rows],
            uniform=self.uniform[rows],
        )


def draw_columns(schema: Schema, config: SyntheticConfig, rng: np.random.Generator, rows: int) -> Draws:
    """Draw the columns of a schema.

    Args:
        schema: the columns.
        config: scale of the cardinalities.
        rng: source of randomness.
        rows: number of samples N.

    Returns:
        The columns.
    """
    sizes = cardinalities(schema, config.cardinality_scale)
    dense = rng.standard_normal((rows, len(schema.dense)))
    dense[rng.random(dense.shape) < MISSING_RATE] = np.nan
    tokens = np.empty((rows, len(schema.tokens)), np.int64)
    for place in range(len(schema.tokens)):
        tokens[:, place] = _ranks(rng.random(rows), sizes[place])
    tokens[rng.random(tokens.shape) < MISSING_RATE] = NO_TOKEN
    bags = zip(schema.bags, sizes[len(schema.tokens) :], strict=True)
    return Draws(
        dense=dense,
        tokens=tokens,
        bags=[_draw_bags(column, size, rng, rows) for column, size in bags],
        weights=None if schema.weight is None else rng.random(rows, np.float32) + np.float32(0.5),
        uniform=rng.random(rows),
    )


def cardinalities(schema: Schema, scale: float) -> list[int]:
    """Return the number of distinct tokens of each categorical column, at most 10 per character if it cuts characters."""
    found: list[int] = []
    for place, column in enumerate(schema.categorical):
        size = column.buckets or cardinality(TOKENS[place % len(TOKENS)], scale)
        if column.characters is not None:
            first, stop = column.characters
            size = min(size, 10 ** (stop - first))
        found.append(size)
    return found


def dense_values(schema: Schema, dense: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the values (N, K) of the dense columns from the numbers of `Draws.dense`."""
    values = np.empty(dense.shape)
    for place, column in enumerate(schema.dense):
        values[:, place] = _VALUES[column.transform](dense[:, place])
    return values


def token_text(ranks: npt.NDArray[np.int64], column: TokenColumn) -> Any:
    """Return tokens as text such as t123; null if missing.

    Args:
        ranks: (N,), `NO_TOKEN` if missing.
        column: the column. If it has `characters`, they select the digits of the text.

    Returns:
        Arrow array of N strings.
    """
    prefix = "t" if column.characters is None else "-" * column.characters[0]
    digits = pa.array(ranks, mask=ranks == NO_TOKEN).cast(pa.string())
    return pc.binary_join_element_wise(prefix, digits, "")


def _ranks(uniform: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    """Turn uniform numbers into ranks below `size`, as the floor of a power law's quantiles on [1, size + 1)."""
    power = 1 - _EXPONENT
    quantile = (1 + uniform * ((size + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(quantile.astype(np.int64), size) - 1  # rounding may reach `size`


def _draw_bags(column: BagColumn, size: int, rng: np.random.Generator, rows: int) -> Bags:
    lengths = np.floor(np.log1p(-rng.random(rows)) / np.log(_ANOTHER)).astype(np.int64)
    if column.max_length is not None:
        lengths = np.minimum(lengths, column.max_length)
    offsets = offsets_of(lengths)
    return Bags(values=_ranks(rng.random(offsets[-1]), size), offsets=offsets)
