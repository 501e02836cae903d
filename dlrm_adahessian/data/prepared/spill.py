"""Store the columns that must wait until the training part is known, in a temporary folder.

Files are written, not mapped, because written pages do not count as memory of this process.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm_adahessian.data.prepared.texts import SpilledTexts
from dlrm_adahessian.data.prepared.vocabulary import token_type
from dlrm_adahessian.data.rows import RowBlock, words_of
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.runs.files import new_file

_PIECE = 1 << 16  # number of entries read at a time


class Spill:
    """Stores tokens column by column, values and lengths of bags, values to standardize, and the bits of missing values.

    Attributes:
        texts: texts of the tokens.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        """Create the folder."""
        folder.mkdir()
        self._folder = folder
        self._num_dense, self._num_tokens = len(schema.dense), len(schema.tokens)
        self._token = np.dtype(token_type(schema))
        self._missing_type = np.dtype((np.uint64, words_of(self._num_dense + self._num_tokens)))
        self._unscaled_type = np.dtype((np.float64, len(schema.standardized)))
        self._columns = [folder / f"{name}.tokens" for name in schema.features]
        self._lengths = [folder / f"{column.feature}.lengths" for column in schema.bags]
        self._missing, self._unscaled = folder / "missing", folder / "unscaled"
        paths = (*self._columns, *self._lengths, self._missing, self._unscaled)
        self._files = {path: new_file(path) for path in paths}
        self.texts = SpilledTexts(folder, schema)

    def append(self, block: RowBlock) -> None:
        """Append a block."""
        tokens = np.ascontiguousarray(block.tokens.T, self._token)
        for path, column in zip(self._columns, (*tokens, *(bags.values for bags in block.bags)), strict=True):
            self._files[path].write(np.ascontiguousarray(column, self._token).data)
        for path, bags in zip(self._lengths, block.bags, strict=True):
            self._files[path].write(bags.lengths.astype(np.int32).data)
        self._files[self._missing].write(np.ascontiguousarray(block.missing).data)
        self._files[self._unscaled].write(np.ascontiguousarray(block.unscaled).data)
        self.texts.append(block)

    def close(self) -> None:
        """Close the files. A second call does nothing."""
        for file in self._files.values():
            file.close()
        self.texts.close()

    def column(self, feature: int, rows: int) -> Iterator[npt.NDArray[Any]]:
        """Read the tokens of a categorical column in the first `rows` samples, in pieces."""
        bag = feature - self._num_tokens
        values = rows if bag < 0 else sum(int(lengths.sum()) for lengths in self.lengths(bag, rows))
        return _pieces(self._columns[feature], self._token, values)

    def lengths(self, bag: int, rows: int) -> Iterator[npt.NDArray[np.int32]]:
        """Read the lengths of a bag column in the first `rows` samples, in pieces."""
        return _pieces(self._lengths[bag], np.dtype(np.int32), rows)

    def unscaled(self, rows: int) -> Iterator[npt.NDArray[np.float64]]:
        """Read the values to standardize of the first `rows` samples, in pieces (n, S)."""
        return _pieces(self._unscaled, self._unscaled_type, rows)

    def missing_counts(self, rows: int) -> npt.NDArray[np.int64]:
        """Count the missing values of each dense and token column in the first `rows` samples, (K + T,) int64."""
        counts = np.zeros(64 * self._missing_type.shape[0], np.int64)
        for missing in self._missing_words(rows):
            _count_bits(missing, counts)
        return counts[: self._num_dense + self._num_tokens]

    def blocks(self, rows: int) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.uint64]]]:
        """Read `rows` samples in blocks of tokens (N, T), a transposed view, and missing (N, W)."""
        columns = [self.column(feature, rows) for feature in range(self._num_tokens)]
        for missing in self._missing_words(rows):
            tokens = np.empty((self._num_tokens, len(missing)), self._token)
            for place, column in zip(tokens, columns, strict=True):
                place[:] = next(column)
            yield tokens.T, missing

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder)

    def _missing_words(self, rows: int) -> Iterator[npt.NDArray[np.uint64]]:
        return _pieces(self._missing, self._missing_type, rows)


def _pieces(path: Path, dtype: np.dtype[Any], entries: int) -> Iterator[npt.NDArray[Any]]:
    with path.open("rb", buffering=0) as file:
        for first in range(0, entries, _PIECE):
            count = min(_PIECE, entries - first)
            yield np.fromfile(file, dtype.base, count * dtype.itemsize // dtype.base.itemsize).reshape(
                (count, *dtype.shape)
            )


@njit(cache=True, nogil=True)
def _count_bits(words: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]) -> None:
    """Add to `counts` (64 W,) the number of times that each bit is set in `words` (N, W)."""
    one = np.uint64(1)
    for word in range(words.shape[1]):
        for n in range(len(words)):
            left, bit = words[n, word], 64 * word
            while left:
                counts[bit] += np.int64(left & one)
                left >>= one
                bit += 1
