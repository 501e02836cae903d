"""Rows in memory: as they were read, and as a model reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import Schema

NO_LABEL = -1


class RowBlock(Protocol):
    """Consecutive rows as they were read, column by column, of a schema with K dense and F token columns."""

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(N,) 0 or 1; `NO_LABEL` where the input has none."""
        ...

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """(N, K) transformed values."""
        ...

    @property
    def tokens(self) -> npt.NDArray[np.uint32]:
        """(N, F), 0 where missing."""
        ...

    @property
    def missing(self) -> npt.NDArray[np.uint64]:
        """(N, W) bit i of a row is set when dense column i is missing, bit K + j when token column j is, 64 bits a word.

        (N,) is the same as (N, 1).
        """
        ...

    @property
    def probability(self) -> npt.NDArray[np.float32] | None:
        """(N,) true click probability of generated rows, None for read ones."""
        ...

    def __len__(self) -> int:
        """Return N."""
        ...


@dataclass(frozen=True, kw_only=True)
class ColumnBlock:
    """Consecutive rows of any schema, a `RowBlock`.

    Attributes:
        schema: K dense and F token columns.
        labels: (N,) int8, 0 or 1; `NO_LABEL` where the input has none.
        values: (N, K) float64, 0 where missing.
        tokens: (N, F) unsigned, 0 where missing.
        missing: (N, W) as in `RowBlock`.
        probability: (N,) float32 or None.
    """

    schema: Schema
    labels: npt.NDArray[np.int8]
    values: npt.NDArray[np.float64]
    tokens: npt.NDArray[np.uint32]
    missing: npt.NDArray[np.uint64]
    probability: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """Return the transformed values, (N, K); missing ones are 0 and stay 0."""
        return np.log1p(np.maximum(self.values, 0)).astype(np.float32)


def missing_words(absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the bits of `RowBlock.missing`, (N, W), of (N, K + F) bool."""
    rows, columns = absent.shape
    words = -(-columns // 64)
    padded = np.zeros((rows, 64 * words), np.bool_)
    padded[:, :columns] = absent
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a model reads of N rows.

    Attributes:
        dense: (N, K) float32.
        ids: (N, F) int32, rows of the tables.
    """

    dense: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.dense)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Features":
        """Return some of the rows; of a slice a view."""
        return Features(dense=self.dense[rows], ids=self.ids[rows])

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """Return the rows of all parts, one after another."""
        return cls(
            dense=np.concatenate([part.dense for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
        )
