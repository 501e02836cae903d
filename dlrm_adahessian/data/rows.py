"""Rows in memory: as they were read, and as a model reads them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
        """Return some of the rows, as of a NumPy array; the values of consecutive rows are a view."""
        if isinstance(rows, slice) and rows.step in (None, 1):
            start, stop, _ = rows.indices(len(self))
            offsets = np.asarray(self.offsets[start : max(start, stop) + 1])
            return Bags(values=self.values[offsets[0] : offsets[-1]], offsets=offsets - offsets[0])
        starts = self.offsets[:-1][rows]
        lengths = self.offsets[1:][rows] - starts
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


@dataclass(frozen=True)
class TokenTexts:
    """What tokens of a column were hashed from.

    Attributes:
        tokens: (U,) uint64; a token may come several times, always with the same text.
        texts: Arrow array of U strings; null or empty where a token is missing.
    """

    tokens: npt.NDArray[np.uint64]
    texts: Any


@dataclass(frozen=True, kw_only=True)
class RowBlock(ABC):
    """N consecutive rows as they were read, column by column, of a schema with K dense, T token and some bag columns.

    Attributes:
        labels: (N,) int8, 0 or 1; `NO_LABEL` where the input has none.
        tokens: (N, T) uint32 or uint64, 0 where missing.
        missing: (N, W) uint64; bit i of a row is set when dense column i is missing, bit K + j when token column j is,
            64 bits a word; (N,) is the same as (N, 1).
        bags: of each bag column, values as of `tokens`; a bag without values is empty.
        weights: (N,) float32, finite and not negative; None where the schema has no weight.
        part: (N,) int8, not falling, 0 in the training part, 1 in the test part, 2 in the validation part; None where the
            order of the rows says it.
        probability: (N,) float32 true click probability of generated rows, None for read ones.
        texts: of each token column and then of each bag column, those of all its tokens, and perhaps of some that the rows
            lack; empty where they are not known.
    """

    labels: npt.NDArray[np.int8]
    tokens: npt.NDArray[Any]
    missing: npt.NDArray[np.uint64]
    bags: Sequence[Bags] = ()
    weights: npt.NDArray[np.float32] | None = None
    part: npt.NDArray[np.int8] | None = None
    probability: npt.NDArray[np.float32] | None = None
    texts: Sequence[TokenTexts] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def dense(self) -> npt.NDArray[np.float32]:
        """(N, K) transformed values, 0 where missing; of columns that are standardized 0 too."""

    @property
    def unscaled(self) -> npt.NDArray[np.float64]:
        """(N, S) values of the S columns that are standardized, NaN where missing."""
        return np.empty((len(self), 0))


@dataclass(frozen=True, kw_only=True)
class ColumnBlock(RowBlock):
    """Rows of any schema.

    Attributes:
        schema: the columns.
        values: (N, K) float64, NaN where missing.
    """

    schema: Schema
    values: npt.NDArray[np.float64]

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """Return log(1 + max(x, 0)), or x, as each column wants; (N, K)."""
        found = np.zeros(self.values.shape, np.float32)
        for place, column in enumerate(self.schema.dense):
            values = np.nan_to_num(self.values[:, place])
            if column.transform == "log1p":
                found[:, place] = np.log1p(np.maximum(values, 0))
            elif column.transform == "none":
                found[:, place] = values
        return found

    @property
    def unscaled(self) -> npt.NDArray[np.float64]:
        """Return the values of the columns that are standardized, (N, S)."""
        return self.values[:, self.schema.standardized]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "ColumnBlock":
        """Return some of the rows."""

        def some(values: npt.NDArray[Any] | None) -> Any:
            return None if values is None else values[rows]

        return ColumnBlock(
            schema=self.schema,
            labels=self.labels[rows],
            values=self.values[rows],
            tokens=self.tokens[rows],
            missing=self.missing[rows],
            bags=[bags[rows] for bags in self.bags],
            weights=some(self.weights),
            part=some(self.part),
            probability=some(self.probability),
            texts=self.texts,
        )


def missing_words(absent: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the bits of `RowBlock.missing`, (N, W), of (N, K + T) bool."""
    rows, columns = absent.shape
    padded = np.zeros((rows, 64 * words_of(columns)), np.bool_)
    padded[:, :columns] = absent
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def missing_columns(words: npt.NDArray[np.uint64], columns: int) -> npt.NDArray[np.bool_]:
    """Return which of K + T columns are missing, (N, K + T), of `RowBlock.missing`."""
    each = np.ascontiguousarray(words.reshape(len(words), -1), "<u8").view(np.uint8)
    return np.unpackbits(each, axis=1, bitorder="little")[:, :columns].astype(np.bool_)


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
