"""Rows of any schema, generated: a planted click model that uses its columns and whose truth is known.

Rows come in pieces of a fixed size, each with the random numbers of a NumPy seed sequence of its own. So row r of a seed is
a function of (seed, r) alone, however many rows are asked for.

The logit is a sum of up to four parts, each scaled to a stated deviation: effects of dense columns (a line and a wave), of
tokens, of bags (the mean over a bag), and a factorisation machine (Rendle, 2010) over all columns. Rare tokens share
prototypes, so memory does not depend on the cardinality. Whichever parts there are, their sum deviates as much as that of
Criteo-like rows, so the task is as hard (Bayes AUC about 0.82), and the mean probability is the click rate of those. Columns
of a few tokens only are an easier or a harder task, as the seed has it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.columnar.hashing import hashed
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.rows import Bags, ColumnBlock, TokenTexts, missing_words
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.synthetic.calibration import Logit, calibrated
from dlrm_adahessian.data.synthetic.columns import NO_TOKEN, Draws, dense_values, draw_columns, token_text
from dlrm_adahessian.data.synthetic.marginals import CLICKS, ROWS

GENERATOR = 1  # raise it when the same configuration draws other rows, so that prepared ones are made anew
PIECE = 1 << 16
"""Rows whose random numbers have a seed sequence of their own."""

_DEVIATIONS = {"dense": 0.75, "tokens": 1.15, "bags": 0.75, "interactions": 0.75}
_LOGIT_DEVIATION = 1.56  # of the sum, as that of Criteo-like rows
_MODEL, _CALIBRATION, _EMITTED = range(3)  # streams of random numbers of a seed
_CALIBRATION_PIECES = 4  # the click rate's standard error is 0.0005
_COMMON, _PROTOTYPES = 512, 256  # tokens with an effect of their own, and those that stand for all others
_RANK = 3  # of the factorisation machine
_SPREADS = (
    0.5,
    *[0.8] * _RANK,
)  # deviation of the logarithm of how much a column matters, alone and beside others
_RARE_STRENGTH = 0.3  # of a rare token's effect and vector against a common one's
_WAVE = 0.4  # amplitude of a number's wave against its slope
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth, multiplicative hashing)

_Terms = npt.NDArray[np.float64]  # (N, 1 + 3) effect and vector of each row's value in a column
_ToTerms = Callable[[Any], _Terms]  # of numbers (N,), ranks (N,) or bags


class PlantedRows(NamedTuple):
    """N rows with their labels (N,) int8, and the probability (N,) float32 that each was drawn from."""

    draws: Draws
    labels: npt.NDArray[np.int8]
    probability: npt.NDArray[np.float32]


def row_blocks(schema: Schema, config: SyntheticConfig, rows: int) -> Iterator[ColumnBlock]:
    """Generate rows 0..rows - 1 of a seed.

    Args:
        schema: the columns; a time is ignored.
        config: seed and cardinality.
        rows: how many rows.

    Yields:
        Blocks in order; `probability` is P(label = 1 | the row's values, tokens and bags).
    """
    for draws, labels, probability in planted_rows(schema, config, rows):
        values = dense_values(schema, draws.dense)
        absent = np.concatenate([np.isnan(values), draws.tokens == NO_TOKEN], axis=1)
        ranks = [*draws.tokens.T, *(bags.values for bags in draws.bags)]
        texts = [
            _hashed(token_text(of_column, column), schema)
            for of_column, column in zip(ranks, schema.categorical, strict=True)
        ]
        of_tokens, of_bags = texts[: len(schema.tokens)], texts[len(schema.tokens) :]
        yield ColumnBlock(
            schema=schema,
            labels=labels,
            values=values,
            tokens=np.array([found.tokens for found in of_tokens], np.uint64).reshape(draws.tokens.T.shape).T,
            missing=missing_words(absent),
            bags=[
                Bags(values=found.tokens, offsets=bags.offsets)
                for found, bags in zip(of_bags, draws.bags, strict=True)
            ],
            weights=draws.weights,
            probability=probability,
            texts=texts if schema.hashes_texts else (),
        )


def planted_rows(schema: Schema, config: SyntheticConfig, rows: int) -> Iterator[PlantedRows]:
    """Generate rows as `row_blocks` does.

    Args:
        schema: the columns.
        config: seed and cardinality.
        rows: how many rows.

    Yields:
        Rows in order, at most `PIECE` at a time.

    Raises:
        ValueError: there are to be no rows.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    planted = _plant(schema, config)
    for piece, start in enumerate(range(0, rows, PIECE)):
        draws = draw_columns(schema, config, _stream(config, _EMITTED, piece), PIECE)
        probability = planted.logit.probability(_parts(planted.columns, draws))
        labels = (draws.uniform < probability).astype(np.int8)
        kept = slice(rows - start)  # after all is computed: sums of fewer rows may round otherwise
        yield PlantedRows(draws[kept], labels[kept], probability[kept])


def _hashed(texts: Any, schema: Schema) -> TokenTexts:
    """Hash texts; of Criteo's format, whose tokens have 32 bits, to as many."""
    return TokenTexts(hashed(texts)[0] & np.uint64((1 << schema.token_bits) - 1), texts)


def _stream(config: SyntheticConfig, *place: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=place))


@dataclass(frozen=True)
class _Column:
    """What a column does to the logit.

    Attributes:
        part: of the logit that its effects belong to.
        raw: gives terms of its values, whatever their mean and deviation.
        mean: (1 + 3,) subtracted from them, so that the factorisation machine adds next to no effects of its own.
        scale: (1 + 3,) times what is left.
    """

    part: str
    raw: _ToTerms
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def terms(self, values: Any) -> _Terms:
        """Return effect and vector of each row."""
        return (self.raw(values) - self.mean) * self.scale


@dataclass(frozen=True)
class _Planted:
    """Click model of a schema and a seed."""

    columns: list[_Column]
    logit: Logit


@lru_cache(maxsize=4)
def _plant(schema: Schema, config: SyntheticConfig) -> _Planted:
    """Draw the click model of a seed."""

    def unseen(piece: int) -> Draws:
        return draw_columns(schema, config, _stream(config, _CALIBRATION, piece), PIECE)

    columns = _planted_columns(schema, unseen(0), _stream(config, _MODEL))
    parts = np.concatenate([_parts(columns, unseen(piece)) for piece in range(_CALIBRATION_PIECES)])
    deviations = np.array([_DEVIATIONS[part] for part in _present(columns)])
    deviations *= _LOGIT_DEVIATION / np.linalg.norm(deviations)
    return _Planted(columns, calibrated(parts, deviations.tolist(), CLICKS / ROWS))


def _planted_columns(schema: Schema, sample: Draws, rng: np.random.Generator) -> list[_Column]:
    """Draw what each column does; mean and deviation of its terms are those of a sample of rows."""
    planted: list[tuple[str, _ToTerms]] = [
        *(("dense", _number_terms(rng)) for _ in schema.dense),
        *(("tokens", _token_terms(rng)) for _ in schema.tokens),
        *(("bags", _bag_terms(_token_terms(rng))) for _ in schema.bags),
    ]
    columns: list[_Column] = []
    for (part, raw), values in zip(planted, _values(sample), strict=True):
        terms = raw(values)
        deviation = terms.std(axis=0)
        weight = np.exp(_SPREADS * np.repeat(rng.normal(size=2), (1, _RANK)))
        columns.append(_Column(part, raw, terms.mean(axis=0), weight / np.where(deviation > 0, deviation, 1)))
    return columns


def _values(draws: Draws) -> list[Any]:
    """Return the values of each column, in the order of the schema."""
    return [*draws.dense.T, *draws.tokens.T, *draws.bags]


def _present(columns: list[_Column]) -> list[str]:
    """Return the parts that the logit has: an interaction takes two columns."""
    parts = {column.part for column in columns}
    return [part for part in _DEVIATIONS if part in parts or (part == "interactions" and len(columns) > 1)]


def _parts(columns: list[_Column], draws: Draws) -> npt.NDArray[np.float32]:
    """Return the parts (N, P) of the logits of rows."""
    rows = len(draws.uniform)
    parts = {part: np.zeros(rows) for part in _DEVIATIONS}
    total, squares = np.zeros((rows, _RANK)), np.zeros(rows)
    for column, values in zip(columns, _values(draws), strict=True):
        terms = column.terms(values)
        parts[column.part] += terms[:, 0]
        total += terms[:, 1:]
        squares += np.square(terms[:, 1:]).sum(axis=1)
    # Rendle's identity: the sum over pairs of dot products, in time linear in the columns.
    parts["interactions"] = (np.square(total).sum(axis=1) - squares) / 2
    return np.stack([parts[part] for part in _present(columns)], axis=1).astype(np.float32)


def _number_terms(rng: np.random.Generator) -> Callable[[npt.NDArray[np.float64]], _Terms]:
    """Draw a smooth effect and a line of vectors over standard normal numbers; missing ones have their own."""
    slope, wave = rng.normal(size=2) * (1, _WAVE)
    phase, direction, gone = rng.uniform(0, 2 * np.pi), rng.normal(size=_RANK), rng.normal(size=1 + _RANK)

    def terms(normal: npt.NDArray[np.float64]) -> _Terms:
        level = np.clip(normal, -3, 3)
        effect = slope * level + wave * np.sin(1.5 * level + phase)
        found = np.concatenate([effect[:, None], np.outer(level, direction)], axis=1)
        return np.where(np.isnan(level)[:, None], gone, found)

    return terms


def _token_terms(rng: np.random.Generator) -> Callable[[npt.NDArray[np.int64]], _Terms]:
    """Draw effect and vector of common tokens, of prototypes of the rare ones, and of the missing one, which is last."""
    table = rng.normal(size=(_COMMON + _PROTOTYPES + 1, 1 + _RANK))
    table[_COMMON:-1] *= _RARE_STRENGTH

    def terms(ranks: npt.NDArray[np.int64]) -> _Terms:
        prototype = (ranks.astype(np.uint64) * _SPREAD >> np.uint64(32)).astype(np.int64) % _PROTOTYPES
        code = np.where(ranks < _COMMON, ranks, _COMMON + prototype)
        return table[code]  # a missing token's rank is -1, the last one's place

    return terms


def _bag_terms(of_values: Callable[[npt.NDArray[np.int64]], _Terms]) -> Callable[[Bags], _Terms]:
    """Return terms of bags: the mean of their values', and those of a missing token for an empty one."""
    (empty,) = of_values(np.array([NO_TOKEN]))

    def terms(bags: Bags) -> _Terms:
        row = np.repeat(np.arange(len(bags)), bags.lengths)
        values, lengths = of_values(bags.values), bags.lengths[:, None]
        sums = [np.bincount(row, column, len(bags)) for column in values.T]
        return np.where(lengths > 0, np.stack(sums, axis=1) / np.maximum(lengths, 1), empty)

    return terms
