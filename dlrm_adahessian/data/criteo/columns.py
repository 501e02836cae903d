"""The row of Criteo Kaggle: a label, 13 integers, 26 hashed tokens; and a block of such rows in memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import Column, DenseColumn, Schema, TokenColumn

NUM_INTEGERS = 13
NUM_TOKENS = 26
INTEGER_NAMES = tuple(f"I{i}" for i in range(1, NUM_INTEGERS + 1))
TOKEN_NAMES = tuple(f"C{i}" for i in range(1, NUM_TOKENS + 1))
COLUMN_NAMES = ("label", *INTEGER_NAMES, *TOKEN_NAMES)
CRITEO = Schema(
    format="criteo",
    label=Column(column=COLUMN_NAMES[0]),
    dense=tuple(DenseColumn(column=name) for name in INTEGER_NAMES),
    tokens=tuple(TokenColumn(column=name) for name in TOKEN_NAMES),
)


@dataclass(frozen=True, kw_only=True)
class CriteoBlock:
    """Consecutive rows, a `RowBlock`.

    Attributes:
        labels: (N,) int8, 0 or 1; `NO_LABEL` where the input has none.
        integers: (N, 13) int64, 0 where missing.
        tokens: (N, 26) uint32, the hexadecimal value; 0 where missing.
        missing: (N,) uint64; bit i is set when integer i is missing, bit 13 + j when token j is.
        probability: (N,) float32 true click probability of generated rows, None for read ones.
    """

    labels: npt.NDArray[np.int8]
    integers: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint32]
    missing: npt.NDArray[np.uint64]
    probability: npt.NDArray[np.float32] | None = None
    bags: tuple[()] = ()
    weights: None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """Return log(1 + max(x, 0)) of the integers, (N, 13); missing ones are 0 and stay 0."""
        return np.log1p(np.maximum(self.integers, 0).astype(np.float64)).astype(np.float32)
