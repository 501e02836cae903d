# pyright: basic
"""Tokens to table rows.

Each feature has a table of its own. Row 0 stands for tokens that the training part lacks or has fewer than
`min_count` times; the others follow by descending frequency, so that hot rows lie together. A missing token is a
token like any other.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.schema import NUM_INTEGERS, NUM_TOKENS

UNKNOWN = 0
_TOKENS, _OFFSETS, _MISSING = "vocabulary_tokens.npy", "vocabulary_offsets.npy", "vocabulary_missing.npy"
_FIRST_CAPACITY = 1 << 12
_THREADS = 2

_Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Vocabulary:
    """The rows of all tables.

    Attributes:
        tokens: uint32, tokens of all features in the order of their rows, row 1 first; where a feature's missing
            token has a row, an unused 0 stands in its place.
        offsets: (27,) int64, where each feature's tokens begin.
        missing: (26,) int32, the row of the missing token; `UNKNOWN` when it is rare.
    """

    tokens: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int32]

    @property
    def num_rows(self) -> tuple[int, ...]:
        """Height of each table, the unknown row included."""
        return tuple(int(n) + 1 for n in np.diff(self.offsets))

    def encoder(self) -> "Encoder":
        """Return the tables that look tokens up."""
        return Encoder(self)

    def save(self, folder: Path) -> None:
        """Write three .npy files."""
        np.save(folder / _TOKENS, self.tokens, allow_pickle=False)
        np.save(folder / _OFFSETS, self.offsets, allow_pickle=False)
        np.save(folder / _MISSING, self.missing, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Vocabulary":
        """Read what `save` wrote."""
        names = (_TOKENS, _OFFSETS, _MISSING)
        return cls(*(np.load(folder / name, allow_pickle=False) for name in names))


class VocabularyCounter:
    """Counts tokens in open-addressing tables that grow."""

    def __init__(self) -> None:
        self._keys = [np.zeros(_FIRST_CAPACITY, np.uint32) for _ in range(NUM_TOKENS)]
        self._counts = [np.zeros(_FIRST_CAPACITY, np.int64) for _ in range(NUM_TOKENS)]
        self._used = [0] * NUM_TOKENS
        self._missing = np.zeros(NUM_TOKENS, np.int64)

    def count(self, tokens: npt.NDArray[np.uint32], missing: npt.NDArray[np.uint64]) -> None:
        """Count the rows of a block.

        Args:
            tokens: (N, 26).
            missing: (N,) bits as in `RowBlock`.
        """

        def count_feature(f: int) -> None:
            needed = 2 * (self._used[f] + len(tokens))
            if needed > len(self._keys[f]):
                capacity = 1 << (needed - 1).bit_length()
                self._keys[f], self._counts[f] = _grown(self._keys[f], self._counts[f], capacity)
            bit = np.uint64(1 << (NUM_INTEGERS + f))
            used, absent = _count(self._keys[f], self._counts[f], tokens[:, f], missing, bit)
            self._used[f] += used
            self._missing[f] += absent

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(count_feature, range(NUM_TOKENS)))

    def build(self, min_count: int) -> Vocabulary:
        """Order the tokens seen at least `min_count` times by frequency, ties by token."""
        parts: list[npt.NDArray[np.uint32]] = []
        missing = np.full(NUM_TOKENS, UNKNOWN, np.int32)
        for f in range(NUM_TOKENS):
            kept = self._counts[f] >= max(min_count, 1)
            keys, counts = self._keys[f][kept], self._counts[f][kept]
            order = np.lexsort((keys, -counts))
            keys, counts = keys[order], counts[order]
            if self._missing[f] >= max(min_count, 1):
                place = int(np.count_nonzero(counts >= self._missing[f]))
                keys = np.insert(keys, place, np.uint32(0))
                missing[f] = place + 1
            parts.append(keys)
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return Vocabulary(np.concatenate(parts), offsets, missing)


class Encoder:
    """Looks tokens up."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        sizes = np.diff(vocabulary.offsets)
        capacity = np.array([1 << int(2 * n + 1).bit_length() for n in sizes], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(capacity)]).astype(np.int64)
        self._keys = np.zeros(self._starts[-1], np.uint32)
        self._rows = np.zeros(self._starts[-1], np.int32)
        self._missing = vocabulary.missing
        _fill(vocabulary.tokens, vocabulary.offsets, vocabulary.missing, self._keys, self._rows, self._starts)

    def encode(self, tokens: npt.NDArray[np.uint32], missing: npt.NDArray[np.uint64]) -> _Ids:
        """Return the table rows.

        Args:
            tokens: (N, 26).
            missing: (N,) bits as in `RowBlock`.

        Returns:
            (N, 26) int32, each within the table of its feature.
        """
        ids = np.empty(tokens.shape, np.int32)
        _encode(tokens, missing, self._keys, self._rows, self._starts, self._missing, ids)
        return ids


@numba.njit(cache=True, nogil=True)
def _slot(keys, marks, first, mask, token):
    # Multiplication spreads the tokens (Knuth's constant); a mark of 0 is an empty place.
    at = (np.uint64(token) * np.uint64(2654435769) >> np.uint64(7)) & mask
    while marks[first + np.int64(at)] != 0 and keys[first + np.int64(at)] != token:
        at = (at + np.uint64(1)) & mask
    return first + np.int64(at)


@numba.njit(cache=True, nogil=True)
def _count(keys, counts, tokens, missing, bit):
    used, absent = 0, 0
    mask = np.uint64(len(keys) - 1)
    for n in range(len(tokens)):
        if missing[n] & bit:
            absent += 1
            continue
        at = _slot(keys, counts, 0, mask, tokens[n])
        if counts[at] == 0:
            keys[at] = tokens[n]
            used += 1
        counts[at] += 1
    return used, absent


@numba.njit(cache=True, nogil=True)
def _grown(keys, counts, capacity):
    new_keys, new_counts = np.zeros(capacity, np.uint32), np.zeros(capacity, np.int64)
    mask = np.uint64(capacity - 1)
    for old in range(len(keys)):
        if counts[old]:
            at = _slot(new_keys, new_counts, 0, mask, keys[old])
            new_keys[at], new_counts[at] = keys[old], counts[old]
    return new_keys, new_counts


@numba.njit(cache=True, nogil=True)
def _fill(tokens, offsets, missing, keys, rows, starts):
    for f in range(len(offsets) - 1):
        mask = np.uint64(starts[f + 1] - starts[f] - 1)
        for row in range(1, offsets[f + 1] - offsets[f] + 1):
            if row == missing[f]:
                continue
            token = tokens[offsets[f] + row - 1]
            at = _slot(keys, rows, starts[f], mask, token)
            keys[at], rows[at] = token, row


@numba.njit(cache=True, parallel=True)
def _encode(tokens, missing, keys, rows, starts, missing_rows, ids):
    for n in numba.prange(len(tokens)):
        for f in range(tokens.shape[1]):
            if (missing[n] >> np.uint64(NUM_INTEGERS + f)) & np.uint64(1):
                ids[n, f] = missing_rows[f]
            else:
                mask = np.uint64(starts[f + 1] - starts[f] - 1)
                ids[n, f] = rows[_slot(keys, rows, starts[f], mask, tokens[n, f])]
