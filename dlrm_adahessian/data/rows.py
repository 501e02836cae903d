"""Samples in memory: raw blocks of columns, and the features that a model reads."""

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
    """A column with any number of values per sample.

    Attributes:
        values: (V,) values of all samples, concatenated; repeated values count as often as they occur.
        offsets: (N + 1,) int64, nondecreasing; the values of sample n are `values[offsets[n]:offsets[n + 1]]`.
    """

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(N,) number of values of each sample."""
        return np.diff(self.offsets)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Bags":
        """Index like a NumPy array. The values of a contiguous slice are a view."""
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
        """Concatenate parts."""
        lengths = np.concatenate([part.lengths for part in parts])
        return cls(values=np.concatenate([part.values for part in parts]), offsets=offsets_of(lengths))


def offsets_of(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return the offsets (N + 1,) of bags with these lengths (N,)."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


@dataclass(frozen=True)
class TokenTexts:
    """Tokens of a column with the texts that they are hashes of.

    Attributes:
        tokens: (U,) uint64; a token may occur several times, always with the same text.
        texts: Arrow array of U strings; null or empty for a missing token.
    """

    tokens: npt.NDArray[np.uint64]
    texts: Any


@dataclass(frozen=True, kw_only=True)
class RowBlock(ABC):
    """N consecutive raw samples by column, for a schema with K dense columns, T token columns, and any bag columns.

    Attributes:
        labels: (N,) int8, 0 or 1; `NO_LABEL` if missing.
        tokens: (N, T) uint32 or uint64, 0 if missing.
        missing: (N, W) uint64 words of 64 bits; bit i is set if dense column i is missing, bit K + j if token column j is;
            (N,) is the same as (N, 1).
        bags: bags of each bag column, with values of the dtype of `tokens`; a missing bag is empty.
        weights: (N,) float32, finite and not negative; None if the schema has no weight.
        part: (N,) int8, nondecreasing: 0 for training, 1 for test, 2 for validation; None if the order of the samples
            determines it.
        probability: (N,) float32 true click probability of generated samples; None for others.
        texts: texts of all tokens of each token column and then of each bag column, possibly with others; empty if they
            are not known.
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
        """(N, K) transformed values, 0 if missing or in a standardized column."""

    @property
    def unscaled(self) -> npt.NDArray[np.float64]:
        """(N, S) untransformed values of the S standardized columns, NaN if missing."""
        return np.empty((len(self), 0))


@dataclass(frozen=True, kw_only=True)
class ColumnBlock(RowBlock):
    """Samples of any schema.

    Attributes:
        schema: the columns.
        values: (N, K) float64 dense values, NaN if missing.
    """

    schema: Schema
    values: npt.NDArray[np.float64]

    @property
    def dense(self) -> npt.NDArray[np.float32]:
        """Return log(1 + max(x, 0)) or x, by the transform of each column, (N, K)."""
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
        """Return the untransformed values of the standardized columns, (N, S)."""
        return self.values[:, self.schema.standardized]

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "ColumnBlock":
        """Return some of the samples."""

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
    """Pack (N, K + T) bool into the words (N, W) of `RowBlock.missing`."""
    rows, columns = absent.shape
    padded = np.zeros((rows, 64 * words_of(columns)), np.bool_)
    padded[:, :columns] = absent
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def missing_columns(words: npt.NDArray[np.uint64], columns: int) -> npt.NDArray[np.bool_]:
    """Unpack `RowBlock.missing` to (N, K + T) bool, True if the value is missing."""
    each = np.ascontiguousarray(words.reshape(len(words), -1), "<u8").view(np.uint8)
    return np.unpackbits(each, axis=1, bitorder="little")[:, :columns].astype(np.bool_)


def words_of(columns: int) -> int:
    """Return W, the number of words of `RowBlock.missing` for K + T columns, at least 1."""
    return max(1, -(-columns // 64))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Features of N samples, the input of a model.

    Attributes:
        dense: (N, K) float32.
        ids: (N, T) int32 embedding rows of the token columns.
        bags: int32 embedding rows of each bag column.
    """

    dense: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    bags: tuple[Bags, ...] = ()

    def __len__(self) -> int:
        return len(self.dense)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> "Features":
        """Return some of the samples; a view for a slice."""
        return Features(
            dense=self.dense[rows], ids=self.ids[rows], bags=tuple(bags[rows] for bags in self.bags)
        )

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """Concatenate parts."""
        return cls(
            dense=np.concatenate([part.dense for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            bags=tuple(map(Bags.joined, zip(*(part.bags for part in parts), strict=True))),
        )
