"""The columns of Criteo Kaggle (a label, 13 integers, 26 hashed tokens), and a block of its samples in memory."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.rows import RowBlock
from dlrm_adahessian.data.schema import DenseColumn, LabelColumn, Schema, TokenColumn

NUM_INTEGERS = 13
NUM_TOKENS = 26
INTEGER_NAMES = tuple(f"I{i}" for i in range(1, NUM_INTEGERS + 1))
TOKEN_NAMES = tuple(f"C{i}" for i in range(1, NUM_TOKENS + 1))
COLUMN_NAMES = ("label", *INTEGER_NAMES, *TOKEN_NAMES)
CRITEO = Schema(
    format="criteo",
    label=LabelColumn(column=COLUMN_NAMES[0]),
    dense=tuple(DenseColumn(column=name) for name in INTEGER_NAMES),
    tokens=tuple(TokenColumn(column=name) for name in TOKEN_NAMES),
)


@dataclass(frozen=True, kw_only=True)
class CriteoBlock(RowBlock):
    """Criteo samples, with tokens (N, 26) uint32 (the hexadecimal values) and missing (N,).

    Attributes:
        integers: (N, 13) int64, 0 if missing.
    """

    integers: npt.NDArray[np.int64]

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """Return log(1 + max(x, 0)) of the integers, (N, 13); 0 if missing."""
        return np.log1p(np.maximum(self.integers, 0).astype(np.float64)).astype(np.float32)
