"""What the columns of a schema hold in generated rows: marginals, and tokens as text.

A dense column is lognormal where the model reads its logarithm, else normal. Tokens follow Zipf's law up to the cardinality
of their column: its `buckets`, or a published one of Criteo's, in turn, so that some columns are large and some small. A bag
has a geometric number of values. Values are missing independently, and columns do not depend on each other.
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
"""Share of the rows in which a dense or a token column is missing."""
NO_TOKEN = -1
"""Rank of a missing token."""

_EXPONENT = 1.1  # of Zipf's law, P(rank r) about r**-1.1: of 200,000 tokens the first has a tenth of the rows
_ANOTHER = 0.8  # chance that a bag has one more value: 4 in the mean, a fifth of the bags empty
_VALUES: Mapping[Transform, Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]] = {
    "log1p": lambda normal: np.exp(1 + 1.5 * normal),
    "none": lambda normal: normal,
    "standardize": lambda normal: 100 + 15 * normal,
}


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Columns of N rows, before the model reads them.

    Attributes:
        dense: (N, K) float64, the standard normal numbers behind the values, NaN where missing.
        tokens: (N, T) int64 ranks by frequency, the first is 0; `NO_TOKEN` where missing.
        bags: of each bag column, ranks.
        weights: (N,) float32 in [0.5, 1.5); None where the schema has no weight.
        uniform: (N,) float64 in [0, 1), from which the label is drawn.
    """

    dense: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.int64]
    bags: list[Bags]
    weights: npt.NDArray[np.float32] | None
    uniform: npt.NDArray[np.float64]

    def __getitem__(self, rows: slice) -> "Draws":
        """Return some of the rows."""
        return Draws(
            dense=self.dense[rows],
            tokens=self.tokens[rows],
            bags=[bags[rows] for bags in self.bags],
            weights=None if self.weights is None else self.weights[rows],
            uniform=self.uniform[rows],
        )


def draw_columns(schema: Schema, config: SyntheticConfig, rng: np.random.Generator, rows: int) -> Draws:
    """Draw rows of a schema.

    Args:
        schema: the columns.
        config: the scale of cardinalities.
        rng: of all that is drawn.
        rows: N.

    Returns:
        The rows.
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
    """Return the distinct tokens of each categorical column; where characters are cut out, no more than those can tell."""
    found: list[int] = []
    for place, column in enumerate(schema.categorical):
        size = column.buckets or cardinality(TOKENS[place % len(TOKENS)], scale)
        if column.characters is not None:
            first, stop = column.characters
            size = min(size, 10 ** (stop - first))
        found.append(size)
    return found


def dense_values(schema: Schema, dense: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the values (N, K) of the dense columns behind which the numbers of `Draws.dense` are."""
    values = np.empty(dense.shape)
    for place, column in enumerate(schema.dense):
        values[:, place] = _VALUES[column.transform](dense[:, place])
    return values


def token_text(ranks: npt.NDArray[np.int64], column: TokenColumn) -> Any:
    """Return tokens as text, such as t123; null where missing.

    Args:
        ranks: (N,), `NO_TOKEN` where missing.
        column: whose `characters`, where it has them, cut the digits out.

    Returns:
        Arrow array of N strings.
    """
    prefix = "t" if column.characters is None else "-" * column.characters[0]
    digits = pa.array(ranks, mask=ranks == NO_TOKEN).cast(pa.string())
    return pc.binary_join_element_wise(prefix, digits, "")


def _ranks(uniform: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.int64]:
    """Return ranks below `size` of uniform numbers: the floor of a power law's quantiles on [1, size + 1)."""
    power = 1 - _EXPONENT
    quantile = (1 + uniform * ((size + 1.0) ** power - 1)) ** (1 / power)
    return np.minimum(quantile.astype(np.int64), size) - 1  # rounding may reach the end


def _draw_bags(column: BagColumn, size: int, rng: np.random.Generator, rows: int) -> Bags:
    lengths = np.floor(np.log1p(-rng.random(rows)) / np.log(_ANOTHER)).astype(np.int64)
    if column.max_length is not None:
        lengths = np.minimum(lengths, column.max_length)
    offsets = offsets_of(lengths)
    return Bags(values=_ranks(rng.random(offsets[-1]), size), offsets=offsets)
