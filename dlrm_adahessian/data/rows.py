"""Rows in memory: as they were read, and as a model reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import Schema

NO_LABEL = -1


@dataclass(frozen=True, kw_only=True)
class Bags:
    """A column with any number of values a row.

    Attributes:
        values: (V,) those of all rows, one row after another; repeated values count as often as they occur.
        offsets: (N + 1,) int64, where each row's values begin and the last one's end, not falling.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) values of each row."""
        return np.diff(self.offsets)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Bags":
        """Return some of the rows; the values of a slice are a view."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(len(self))
            offsets = np.asarray(self.offsets[start : stop + 1])
            return Bags(values=self.values[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = offsets_of(lengths)
        places = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Bags(values=self.values[places], offsets=offsets)

    @classmethod
    def joined(cls, parts: Sequence["Bags"]) -> "Bags":
        """Return the rows of all parts, one after another."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(values=np.concatenate([part.values for part in parts]), offsets=offsets_of(lengths))


def offsets_of(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the offsets (N + 1,) of bags with these lengths (N,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


class RowBlock(Protocol):
    """N consecutive rows as they were read, column by column, of a schema with K dense, T token and some bag columns."""

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        """(N,) 0 or 1; `NO_LABEL` where the input has none."""
        ...

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """(N, K) values, transformed as far as that needs nothing of other rows; 0 where missing."""
        ...

    @property
    def tokens(self) -> npt.NDArray[Any]:
        """(N, T) uint32 or uint64, 0 where missing."""
        ...

    @property
    def bags(self) -> Sequence[Bags]:
        """Of each bag column, values as of `tokens`; a bag without values is empty."""
        ...

    @property
    def missing(self) -> npt.NDArray[np.uint64]:
        """(N, W) bit i of a row is set when dense column i is missing, bit K + j when token column j is, 64 bits a word.

        (N,) is the same as (N, 1).
        """
        ...

    @property
    def weights(self) -> npt.NDArray[np.float32] | None:
        """(N,) finite and not negative; None where the schema has no weight."""
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
        schema: the columns.
        labels: (N,) int8, 0 or 1; `NO_LABEL` where the input has none.
        values: (N, K) float64, 0 where missing.
        tokens: (N, T) unsigned, 0 where missing.
        missing: (N, W) as in `RowBlock`.
        bags: of each bag column.
        weights: (N,) float32 or None.
        probability: (N,) float32 or None.
    """

    schema: Schema
    labels: npt.NDArray[np.int8]
    values: npt.NDArray[np.float64]
    tokens: npt.NDArray[Any]
    missing: npt.NDArray[np.uint64]
    bags: Sequence[Bags] = ()
    weights: npt.NDArray[np.float32] | None = None
    probability: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """Return log(1 + max(x, 0)) where the column is transformed so, else the value; (N, K)."""
        found = self.values.astype(np.float32)
        logarithms = [k for k, column in enumerate(self.schema.dense) if column.transform == "log1p"]
        found[:, logarithms] = np.log1p(np.maximum(self.values[:, logarithms], 0))
        return found


def missing_words(absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the bits of `RowBlock.missing`, (N, W), of (N, K + T) bool."""
    rows, columns = absent.shape
    padded = np.zeros((rows, 64 * words_of(columns)), np.bool_)
    padded[:, :columns] = absent
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def words_of(columns: int) -> int:
    """Return W, the words of `RowBlock.missing` for K + T columns, at least 1."""
    return max(1, -(-columns // 64))


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a model reads of N rows.

    Attributes:
        dense: (N, K) float32.
        ids: (N, T) int32, rows of the tables of the token columns.
        bags: int32 rows of the tables of the bag columns.
    """

    dense: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    bags: tuple[Bags, ...] = ()

    def __len__(self) -> int:
        return len(self.dense)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Features":
        """Return some of the rows; of a slice a view."""
        return Features(
            dense=self.dense[rows], ids=self.ids[rows], bags=tuple(bags[rows] for bags in self.bags)
        )

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """Return the rows of all parts, one after another."""
        return cls(
            dense=np.concatenate([part.dense for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            bags=tuple(map(Bags.joined, zip(*(part.bags for part in parts), strict=True))),
        )
