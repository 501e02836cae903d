"""Tokens to table rows.

Each feature has a table of its own. Row 0 stands for tokens that the training part lacks or has fewer than
`min_count` times; the others follow by descending frequency, so that hot rows lie together, and by value
where they are equally frequent. A missing token is a token like any other, and goes before its equals.

A hash table here is one array of 64-bit slots, the token above its count or row: what is looked up lies in
one cache line, and the counts of the largest feature (10 million tokens) take 134 MB.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm_adahessian.data.prepared.arrays import read_array

UNKNOWN = 0
"""Row of tokens that are unseen or rare."""

_FILES = {name: f"vocabulary_{name}.npy" for name in ("tokens", "offsets", "missing")}
_THREADS = 2  # features counted at a time: each holds a table, so more would cost memory
_SMALLEST = 1 << 4  # slots
_ENCODED_ROWS = 1 << 13  # rows that a thread encodes at a time, so that they stay in its cache
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth, multiplicative hashing)

_Slots = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Vocabulary:
    """The rows of all tables.

    Attributes:
        tokens: uint32, tokens of all features in the order of their rows, row 1 first; where a missing token
            has a row, a 0 without meaning stands in its place.
        offsets: (F + 1,) int64, where each feature's tokens begin, and their number.
        missing: (F,) int32, row of the missing token; `UNKNOWN` when it is rare.
    """

    tokens: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int32]

    @property
    def num_rows(self) -> tuple[int, ...]:
        """Height of each table, the unknown row included."""
        return tuple(int(n) + 1 for n in np.diff(self.offsets))

    def encoder(self, first_bit: int) -> "Encoder":
        """Build the hash tables that look tokens up; `first_bit` is that of the first feature in `RowBlock.missing`."""
        return Encoder(self, first_bit)

    def save(self, folder: Path) -> None:
        """Write three .npy files into `folder`."""
        for field, name in _FILES.items():
            np.save(folder / name, getattr(self, field), allow_pickle=False)

    @classmethod
    def load(cls, folder: Path) -> "Vocabulary":
        """Read what `save` wrote; `DamagedFolderError` when that is no array."""
        return cls(**{field: read_array(folder / name) for field, name in _FILES.items()})


def build_vocabulary(
    column: Callable[[int], Iterable[npt.NDArray[np.uint32]]],
    missing: npt.NDArray[np.int64],
    *,
    min_count: int,
) -> Vocabulary:
    """Count the tokens of the training part, and order those seen at least `min_count` times.

    Args:
        column: gives the tokens of feature 0..F - 1 in pieces, 0 where missing; called from several threads.
        missing: (F,) in how many rows each feature is missing.
        min_count: at least 1.

    Returns:
        The vocabulary.
    """

    def ordered(feature: int) -> tuple[npt.NDArray[np.uint32], int]:
        return _in_order(_counted(column(feature)), int(missing[feature]), min_count)

    with ThreadPoolExecutor(_THREADS) as pool:
        tokens, missing_rows = zip(*pool.map(ordered, range(len(missing))), strict=True)
    return Vocabulary(
        tokens=np.concatenate(tokens),
        offsets=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        missing=np.array(missing_rows, np.int32),
    )


class Encoder:
    """Looks tokens up; safe to share among threads."""

    def __init__(self, vocabulary: Vocabulary, first_bit: int) -> None:
        sizes = np.diff(vocabulary.offsets)
        slots = [_new_slots(2 * int(size)) for size in sizes]
        for feature, table in enumerate(slots):
            first, stop = vocabulary.offsets[feature : feature + 2]
            _enter(table, vocabulary.tokens[first:stop], vocabulary.missing[feature])
        self._starts = np.cumsum([0, *map(len, slots)], dtype=np.int64)
        self._slots = np.concatenate(slots)
        self._missing = vocabulary.missing
        self._first_bit = first_bit

    def encode(
        self, tokens: npt.NDArray[np.uint32], missing: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.int32]:
        """Return the table rows.

        Args:
            tokens: (N, F), as in `RowBlock`.
            missing: as in `RowBlock`.

        Returns:
            (N, F) int32, each within the table of its feature.
        """
        rows = np.empty(tokens.shape, np.int32)
        words = missing.reshape(len(missing), missing.size // max(len(missing), 1))

        def encode(first: int) -> None:
            part = slice(first, first + _ENCODED_ROWS)
            _encode(
                tokens[part],
                words[part],
                self._first_bit,
                self._slots,
                self._starts,
                self._missing,
                rows[part],
            )

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(encode, range(0, len(tokens), _ENCODED_ROWS)))
        return rows


def _counted(pieces: Iterable[npt.NDArray[np.uint32]]) -> _Slots:
    """Count tokens in a table that grows, at most 3/4 full."""
    slots = _new_slots(0)
    used = 0
    for tokens in pieces:
        if 4 * (used + len(tokens)) > 3 * len(slots):
            full, slots = slots, _new_slots((used + len(tokens)) * 4 // 3)
            _move(full, slots)
        used += _count(slots, tokens)
    return slots


def _in_order(slots: _Slots, missing: int, min_count: int) -> tuple[npt.NDArray[np.uint32], int]:
    """Return the kept tokens by rank, and the row of the missing token; see `Vocabulary`."""
    kept = _frequent(slots, min_count)
    # Counts of pieces include the missing, as zeros.
    if missing:
        zero = kept < np.uint64(1) << _HALF
        kept[zero] -= np.uint64(missing)
        kept = _frequent(kept, min_count)
    rank = ((_LOW - (kept & _LOW)) << _HALF) | (kept >> _HALF)
    rank.sort()
    tokens = (rank & _LOW).astype(np.uint32)
    if missing < min_count:
        return tokens, UNKNOWN
    place = int(np.searchsorted(rank, np.uint64((int(_LOW) - missing) << 32)))
    return np.insert(tokens, place, np.uint32(0)), place + 1


def _new_slots(at_least: int) -> _Slots:
    return np.zeros(max(_SMALLEST, 1 << (at_least - 1).bit_length()), np.uint64)


@njit(cache=True)
def _find(slots: _Slots, token: np.uint64, shift: np.uint64) -> np.uint64:
    """Return the slot that holds `token`, or the empty one where it belongs."""
    at = (token * _SPREAD) >> shift
    while slots[at] and slots[at] >> _HALF != token:
        at = (at + np.uint64(1)) & np.uint64(len(slots) - 1)
    return at


@njit(cache=True)
def _shift(slots: _Slots) -> np.uint64:
    """Return how far a hash is shifted to index `slots`, whose number is a power of two."""
    shift = 64
    size = len(slots)
    while size > 1:
        size >>= 1
        shift -= 1
    return np.uint64(shift)


@njit(cache=True, nogil=True)
def _count(slots: _Slots, tokens: npt.NDArray[np.uint32]) -> int:
    """Count tokens into a table with room for them; return how many are new."""
    shift = _shift(slots)
    new = 0
    for n in range(len(tokens)):
        token = np.uint64(tokens[n])
        at = _find(slots, token, shift)
        if not slots[at]:
            slots[at] = token << _HALF
            new += 1
        slots[at] += np.uint64(1)
    return new


@njit(cache=True, nogil=True)
def _frequent(slots: _Slots, min_count: int) -> _Slots:
    """Select without a mask or a copy of the counts, which would take as much memory again."""
    frequent = 0
    for slot in slots:
        frequent += (slot & _LOW) >= np.uint64(min_count)
    kept = np.empty(frequent, np.uint64)
    n = 0
    for slot in slots:
        if (slot & _LOW) >= np.uint64(min_count):
            kept[n] = slot
            n += 1
    return kept


@njit(cache=True, nogil=True)
def _move(full: _Slots, slots: _Slots) -> None:
    """Enter all of one table into another, larger one."""
    shift = _shift(slots)
    for n in range(len(full)):
        if full[n]:
            slots[_find(slots, full[n] >> _HALF, shift)] = full[n]


@njit(cache=True, nogil=True)
def _enter(slots: _Slots, tokens: npt.NDArray[np.uint32], missing: int) -> None:
    """Enter the rows of tokens, row 1 first; row `missing` belongs to no token."""
    shift = _shift(slots)
    for n in range(len(tokens)):
        if n + 1 != missing:
            token = np.uint64(tokens[n])
            slots[_find(slots, token, shift)] = (token << _HALF) | np.uint64(n + 1)


@njit(cache=True, nogil=True)
def _encode(
    tokens: npt.NDArray[np.uint32],
    missing: npt.NDArray[np.uint64],
    first_bit: int,
    slots: _Slots,
    starts: npt.NDArray[np.int64],
    missing_rows: npt.NDArray[np.int32],
    rows: npt.NDArray[np.int32],
) -> None:
    """Look up feature by feature, so that a feature's table stays in the cache."""
    for feature in range(len(missing_rows)):
        table = slots[starts[feature] : starts[feature + 1]]
        shift = _shift(table)
        word, bit = (first_bit + feature) >> 6, np.uint64((first_bit + feature) & 63)
        for n in range(len(missing)):
            if (missing[n, word] >> bit) & np.uint64(1):
                rows[n, feature] = missing_rows[feature]
            else:
                # An empty slot holds 0, the row of unknown tokens.
                slot = table[_find(table, np.uint64(tokens[n, feature]), shift)]
                rows[n, feature] = slot & _LOW
