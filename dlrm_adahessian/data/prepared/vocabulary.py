"""Map tokens to embedding rows.

Each categorical column has its own table. Row 0 is for tokens that occur fewer than `min_count` times in the training
part, or never. The other tokens are sorted by descending frequency, so that hot rows are adjacent, and then by value. The
missing token counts like any other, and comes first among equally frequent ones. Bag columns have no missing token: a bag
without values is empty. With `buckets` there is no vocabulary: a token has row 1 + token modulo buckets, and a missing one
row 0. A vocabulary that extends another keeps the rows of that one and appends its own.

A hash table here is one array of slots, each with a token and its count or row. So a lookup touches one cache line, and
the counts of Criteo's largest feature (10 million tokens) take 134 MB.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from dlrm_adahessian.data.prepared.arrays import read_array, write_array
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.runs.sealed import DamagedFolderError

UNKNOWN = 0
"""Row of unseen and rare tokens."""

_FILES = {name: f"vocabulary_{name}.npy" for name in ("tokens", "offsets", "missing")}
_THREADS = 2  # features counted at a time; each needs a table, so more would cost memory
_SMALLEST = 1 << 4  # slots
_ENCODED_ROWS = 1 << 13  # samples that a thread encodes at a time, few enough to stay in its cache
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth, multiplicative hashing)

_Slots = npt.NDArray[Any]  # records of token and value; the value is 0 only in an empty slot
_Tokens = npt.NDArray[Any]  # uint32 or uint64


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of the embedding rows of all tables.

    Attributes:
        tokens: uint32 or uint64, tokens of all features in the order of their rows, row 1 first; the row of a missing
            token has a placeholder 0.
        offsets: (F + 1,) int64, index at which each feature's tokens begin, and the total number.
        missing: (F,) int32, row of the missing token; `UNKNOWN` if it is rare.
    """

    tokens: _Tokens
    offsets: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int32]

    def tokens_of(self, feature: int) -> _Tokens:
        """Return the tokens of a feature in the order of their rows, row 1 first."""
        first, stop = self.offsets[feature : feature + 2]
        return self.tokens[first:stop]

    def save(self, folder: Path) -> None:
        """Write three .npy files into `folder`."""
        for field, name in _FILES.items():
            write_array(folder / name, getattr(self, field))

    @classmethod
    def load(cls, folder: Path, schema: Schema) -> "Vocabulary":
        """Read what `save` wrote.

        Args:
            folder: folder that `save` wrote.
            schema: schema of the data.

        Returns:
            The vocabulary.

        Raises:
            DamagedFolderError: the files are not a vocabulary for this schema.
        """
        found = cls(**{field: read_array(folder / name) for field, name in _FILES.items()})
        features, ends = len(schema.features), found.offsets
        types = [found.tokens.dtype, ends.dtype, found.missing.dtype]
        shapes = [ends.shape, found.missing.shape, found.tokens.ndim]
        if types != [token_type(schema), np.int64, np.int32] or shapes != [(features + 1,), (features,), 1]:
            raise DamagedFolderError(
                f"{folder} must contain a vocabulary of {features} columns, found arrays of {types} and shapes {shapes}"
            )
        heights = np.diff(ends)
        if ends[0] != 0 or ends[-1] != len(found.tokens) or (heights < 0).any():
            raise DamagedFolderError(
                f"the offsets in {folder} do not divide {len(found.tokens):,} tokens into columns"
            )
        if (found.missing < 0).any() or (found.missing > heights).any():
            raise DamagedFolderError(f"a missing token in {folder} has a row outside its table")
        return found


def build_vocabulary(
    schema: Schema,
    column: Callable[[int], Iterable[_Tokens]],
    missing: npt.NDArray[np.int64],
    *,
    min_count: int,
) -> Vocabulary:
    """Count the tokens of the training part, and sort the frequent ones.

    Args:
        schema: schema of the data.
        column: returns the tokens of feature 0..F - 1 in pieces, 0 if missing; called from several threads.
        missing: (F,) number of samples in which each feature is missing; 0 for bags.
        min_count: smallest count of a token with its own row, unless the schema sets one; at least 1.

    Returns:
        The vocabulary. Features with buckets have no tokens.
    """
    dtype = token_type(schema)

    def ordered(feature: int) -> tuple[_Tokens, int]:
        about = schema.categorical[feature]
        if about.buckets is not None:
            return np.empty(0, dtype), UNKNOWN
        counted = _counted(column(feature), dtype)
        return _in_order(counted, int(missing[feature]), about.min_count or min_count)

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(ordered, range(len(missing))))
    return Vocabulary(
        tokens=np.concatenate([np.empty(0, dtype), *(tokens for tokens, _ in found)]),
        offsets=np.cumsum([0, *(len(tokens) for tokens, _ in found)], dtype=np.int64),
        missing=np.array([row for _, row in found], np.int32),
    )


def extended(schema: Schema, known: Vocabulary, found: Vocabulary) -> Vocabulary:
    """Return a vocabulary with the rows of `known`, followed by the tokens that only `found` has, in its order."""
    encoder = Encoder(schema, known)
    tokens, heights, missing = [np.empty(0, token_type(schema))], [0], []
    for feature, (row, new_row) in enumerate(zip(known.missing, found.missing, strict=True)):
        old, new = known.tokens_of(feature), found.tokens_of(feature)
        lacking = encoder.rows_of(feature, new) == UNKNOWN
        if new_row != UNKNOWN:  # the placeholder token must not be looked up
            lacking[new_row - 1] = row == UNKNOWN
        if row == UNKNOWN != new_row:
            row = len(old) + int(np.count_nonzero(lacking[:new_row]))
        tokens += [old, new[lacking]]
        heights.append(len(old) + int(np.count_nonzero(lacking)))
        missing.append(row)
    return Vocabulary(
        tokens=np.concatenate(tokens),
        offsets=np.cumsum(heights, dtype=np.int64),
        missing=np.array(missing, np.int32),
    )


def token_type(schema: Schema) -> type[np.uint32] | type[np.uint64]:
    """Return the dtype of the tokens of a schema."""
    return np.uint32 if schema.token_bits <= 32 else np.uint64


class Encoder:
    """Looks up tokens. Threads may share an instance."""

    def __init__(self, schema: Schema, vocabulary: Vocabulary) -> None:
        """Build the hash tables."""
        self._slots: list[_Slots] = []
        for feature in range(len(vocabulary.missing)):
            tokens = vocabulary.tokens_of(feature)
            table = _new_slots(2 * len(tokens), vocabulary.tokens.dtype)
            _enter(table, tokens, vocabulary.missing[feature])
            self._slots.append(table)
        self._buckets = [column.buckets or 0 for column in schema.categorical]
        self._missing = vocabulary.missing
        self._first_bit = len(schema.dense)
        self._first_bag = len(schema.tokens)

    def encode(self, tokens: _Tokens, missing: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Return the embedding rows of the token columns.

        Args:
            tokens: (N, T), as in `RowBlock`.
            missing: as in `RowBlock`.

        Returns:
            (N, T) int32 row numbers within the table of each feature.
        """
        rows = np.empty(tokens.shape, np.int32)
        words = missing.reshape(len(missing), missing.size // max(len(missing), 1))

        def encode(first: int) -> None:
            part = slice(first, first + _ENCODED_ROWS)
            # One feature at a time, so that its hash table stays in the cache.
            for feature in range(tokens.shape[1]):
                word, bit = divmod(self._first_bit + feature, 64)
                found = rows[part, feature]
                self._look_up(feature, tokens[part, feature], found)
                _mark_missing(words[part, word], np.uint64(bit), self._missing[feature], found)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(encode, range(0, len(tokens), _ENCODED_ROWS)))
        return rows

    def encode_values(self, bag: int, values: _Tokens) -> npt.NDArray[np.int32]:
        """Return the embedding rows (V,) int32 of values (V,) of the bag column with index `bag`."""
        return self.rows_of(self._first_bag + bag, values)

    def rows_of(self, feature: int, tokens: _Tokens) -> npt.NDArray[np.int32]:
        """Return the embedding rows (V,) int32 of tokens (V,) of a categorical column, none of them missing."""
        rows = np.empty(len(tokens), np.int32)
        self._look_up(feature, tokens, rows)
        return rows

    def _look_up(self, feature: int, tokens: _Tokens, rows: npt.NDArray[np.int32]) -> None:
        if buckets := self._buckets[feature]:
            np.add(tokens % np.uint64(buckets), 1, out=rows, casting="unsafe")
        else:
            _encode(tokens, self._slots[feature], rows)


def _counted(pieces: Iterable[_Tokens], dtype: npt.DTypeLike) -> _Slots:
    """Count tokens in a table that grows and is at most 3/4 full."""
    slots = _new_slots(0, dtype)
    used = 0
    for tokens in pieces:
        if 4 * (used + len(tokens)) > 3 * len(slots):
            full, slots = slots, _new_slots((used + len(tokens)) * 4 // 3, dtype)
            _move(full, slots)
        used += _count(slots, tokens)
    return slots


def _in_order(slots: _Slots, missing: int, min_count: int) -> tuple[_Tokens, int]:
    """Return the frequent tokens in order, and the row of the missing token; see `Vocabulary`."""
    kept = _frequent(slots, min_count)
    # Missing tokens were counted as zeros.
    if missing:
        kept["value"][kept["token"] == 0] -= missing
        kept = _frequent(kept, min_count)
    falling = -kept["value"].astype(np.int64)
    order = np.lexsort((kept["token"], falling))
    tokens = kept["token"][order]
    if missing < min_count:
        return tokens, UNKNOWN
    place = int(np.searchsorted(falling[order], -missing))
    return np.insert(tokens, place, 0), place + 1


def _new_slots(at_least: int, dtype: npt.DTypeLike) -> _Slots:
    return np.zeros(max(_SMALLEST, 1 << (at_least - 1).bit_length()), [("token", dtype), ("value", dtype)])


@njit(cache=True)
def _find(slots: _Slots, token: int, shift: np.uint64) -> np.uint64:
    """Return the slot of `token`, or the empty slot for it."""
    at = (np.uint64(token) * _SPREAD) >> shift
    while slots["value"][at] and slots["token"][at] != token:
        at = (at + np.uint64(1)) & np.uint64(len(slots) - 1)
    return at


@njit(cache=True)
def _shift(slots: _Slots) -> np.uint64:
    """Return the right shift that turns a hash into an index of `slots`, whose length is a power of two."""
    shift = 64
    size = len(slots)
    while size > 1:
        size >>= 1
        shift -= 1
    return np.uint64(shift)


@njit(cache=True, nogil=True)
def _count(slots: _Slots, tokens: _Tokens) -> int:
    """Count tokens in a table with room for them, and return the number of new ones."""
    shift = _shift(slots)
    new = 0
    for token in tokens:
        at = _find(slots, token, shift)
        if not slots["value"][at]:
            slots["token"][at] = token
            new += 1
        slots["value"][at] += 1
    return new


@njit(cache=True, nogil=True)
def _frequent(slots: _Slots, min_count: int) -> _Slots:
    """Select the slots of frequent tokens, without a mask or a copy, which would double the memory."""
    frequent = 0
    for value in slots["value"]:
        frequent += value >= min_count
    kept = np.empty(frequent, slots.dtype)
    n = 0
    for at in range(len(slots)):
        if slots["value"][at] >= min_count:
            kept[n] = slots[at]
            n += 1
    return kept


@njit(cache=True, nogil=True)
def _move(full: _Slots, slots: _Slots) -> None:
    """Insert all entries of a table into a larger one."""
    shift = _shift(slots)
    for n in range(len(full)):
        if full["value"][n]:
            slots[_find(slots, full["token"][n], shift)] = full[n]


@njit(cache=True, nogil=True)
def _enter(slots: _Slots, tokens: _Tokens, missing: int) -> None:
    """Insert tokens with their rows, starting at row 1; skip row `missing`, which belongs to no token."""
    shift = _shift(slots)
    for n in range(len(tokens)):
        if n + 1 != missing:
            at = _find(slots, tokens[n], shift)
            slots["token"][at] = tokens[n]
            slots["value"][at] = n + 1


@njit(cache=True, nogil=True)
def _encode(tokens: _Tokens, slots: _Slots, rows: npt.NDArray[np.int32]) -> None:
    """Look up tokens. An empty slot has value 0, the row of unknown tokens."""
    shift = _shift(slots)
    for n in range(len(tokens)):
        rows[n] = slots["value"][_find(slots, tokens[n], shift)]


@njit(cache=True, nogil=True)
def _mark_missing(
    words: npt.NDArray[np.uint64], bit: np.uint64, missing: int, rows: npt.NDArray[np.int32]
) -> None:
    for n in range(len(words)):
        if (words[n] >> bit) & np.uint64(1):
            rows[n] = missing
