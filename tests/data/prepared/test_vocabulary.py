"""Compare the rows of the tables with a count in plain Python."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dlrm_adahessian.data.criteo.columns import CRITEO, CriteoBlock
from dlrm_adahessian.data.prepared.preprocessing import NO_SCALES, Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import Encoder, Vocabulary, build_vocabulary
from dlrm_adahessian.runs.sealed import DamagedFolderError
from tests.data.oracle import random_block, rows_of

MISSING = -1  # sorts before every token of the same count


def vocabulary_of(block: CriteoBlock, min_count: int, piece: int = 1 << 16) -> Vocabulary:
    def column(feature: int) -> Iterator[np.ndarray]:
        for first in range(0, len(block), piece):
            yield block.tokens[first : first + piece, feature]

    bits = np.uint64(1) << np.arange(13, 39, dtype=np.uint64)
    missing = np.count_nonzero(block.missing[:, None] & bits, axis=0)
    return build_vocabulary(CRITEO, column, missing, min_count=min_count)


def num_rows(vocabulary: Vocabulary) -> tuple[int, ...]:
    return Preprocessing(CRITEO, vocabulary, NO_SCALES).num_rows


def encode(vocabulary: Vocabulary, tokens: np.ndarray, missing: np.ndarray) -> np.ndarray:
    return Encoder(CRITEO, vocabulary).encode(tokens, missing)


def expected_ids(block: CriteoBlock, train: int, min_count: int) -> tuple[np.ndarray, list[int]]:
    """Return ids (N, 26) and the number of rows of each table."""
    tokens = [[MISSING if token is None else token for token in row.tokens] for row in rows_of([block])]
    ids, heights = np.zeros((len(tokens), 26), np.int32), []
    for feature in range(26):
        counts = Counter(row[feature] for row in tokens[:train])
        kept = sorted((-count, token) for token, count in counts.items() if count >= min_count)
        ranks = {token: rank for rank, (_, token) in enumerate(kept, 1)}
        ids[:, feature] = [ranks.get(row[feature], 0) for row in tokens]
        heights.append(len(kept) + 1)
    return ids, heights


@pytest.mark.parametrize("min_count", [1, 2, 10, 500])
@pytest.mark.parametrize("distinct", [1, 7, 3000])
@pytest.mark.parametrize("seed", range(3))
def test_ids_are_ranks_by_frequency(seed: int, distinct: int, min_count: int) -> None:
    block = random_block(np.random.default_rng(seed), 2000, distinct=distinct)
    train = CriteoBlock(
        labels=block.labels[:1500],
        integers=block.integers[:1500],
        tokens=block.tokens[:1500],
        missing=block.missing[:1500],
    )
    vocabulary = vocabulary_of(train, min_count)
    ids, heights = expected_ids(block, 1500, min_count)
    assert num_rows(vocabulary) == tuple(heights)
    assert (encode(vocabulary, block.tokens, block.missing) == ids).all()


def test_token_zero_and_missing_are_different_tokens() -> None:
    tokens = np.zeros((10, 26), np.uint32)
    missing = np.zeros(10, np.uint64)
    missing[:4] = 1 << 13
    block = CriteoBlock(
        labels=np.zeros(10, np.int8), integers=np.zeros((10, 13)), tokens=tokens, missing=missing
    )
    for min_count, ids in ((1, [2] * 4 + [1] * 6), (5, [0] * 4 + [1] * 6), (7, [0] * 10)):
        vocabulary = vocabulary_of(block, min_count)
        assert encode(vocabulary, tokens, missing)[:, 0].tolist() == ids
    assert num_rows(vocabulary_of(block, 7)) == (1, *[2] * 25)


@pytest.mark.parametrize("piece", [1, 13, 4096])
def test_tables_grow(piece: int) -> None:
    rows = 40_000 if piece > 1 else 3000
    block = random_block(np.random.default_rng(0), rows, distinct=2**31)
    whole, grown = vocabulary_of(block, 1, rows), vocabulary_of(block, 1, piece)
    assert max(num_rows(whole)) > rows // 2
    for field in ("tokens", "offsets", "missing"):
        assert (getattr(whole, field) == getattr(grown, field)).all()


def test_tokens_that_collide_are_told_apart() -> None:
    """Multiples of a power of two are the worst case for a hash that masks low bits."""
    tokens = np.repeat((np.arange(4096, dtype=np.uint32) << 20)[:, None], 26, axis=1)
    missing = np.zeros(4096, np.uint64)
    block = CriteoBlock(labels=np.zeros(4096), integers=np.zeros((4096, 13)), tokens=tokens, missing=missing)
    vocabulary = vocabulary_of(block, 1)
    assert (encode(vocabulary, tokens, missing)[:, 7] == np.arange(1, 4097)).all()
    assert (encode(vocabulary, tokens + np.uint32(1), missing) == 0).all()


def test_encoding_does_not_depend_on_the_layout_or_the_number_of_rows() -> None:
    block = random_block(np.random.default_rng(3), 20_000, distinct=900)
    encoder = Encoder(CRITEO, vocabulary_of(block, 3))
    ids = encoder.encode(block.tokens, block.missing)
    assert (encoder.encode(np.asfortranarray(block.tokens), block.missing) == ids).all()
    one_by_one = [encoder.encode(block.tokens[n : n + 1], block.missing[n : n + 1]) for n in range(50)]
    assert (np.concatenate(one_by_one) == ids[:50]).all()
    assert encoder.encode(block.tokens[:0], block.missing[:0]).shape == (0, 26)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("tokens", lambda a: a.astype(np.float64)),
        ("tokens", lambda a: a.astype(np.uint64)),
        ("tokens", lambda a: a[:-1]),
        ("tokens", lambda a: a[:, None]),
        ("offsets", lambda a: a.astype(np.float64)),
        ("offsets", lambda a: a[1:]),
        ("offsets", lambda a: a + 1),
        ("offsets", lambda a: np.concatenate([a[:1], a[:0:-1]])),
        ("missing", lambda a: a[1:]),
        ("missing", lambda a: a - 10_000),
        ("missing", lambda a: a + 10_000),
    ],
)
def test_arrays_that_are_no_vocabulary_of_the_schema_are_refused(tmp_path: Path, field: str, change) -> None:
    vocabulary = vocabulary_of(random_block(np.random.default_rng(4), 500, distinct=50), 2)
    replace(vocabulary, **{field: change(getattr(vocabulary, field))}).save(tmp_path)
    with pytest.raises(DamagedFolderError, match=str(tmp_path)):
        Vocabulary.load(tmp_path, CRITEO)


def test_saved_and_loaded(tmp_path: Path) -> None:
    vocabulary = vocabulary_of(random_block(np.random.default_rng(4), 500, distinct=50), 2)
    vocabulary.save(tmp_path)
    loaded = Vocabulary.load(tmp_path, CRITEO)
    for field in ("tokens", "offsets", "missing"):
        assert (getattr(loaded, field) == getattr(vocabulary, field)).all()
        assert getattr(loaded, field).dtype == getattr(vocabulary, field).dtype
