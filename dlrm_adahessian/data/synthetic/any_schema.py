"""Generate samples of any schema, with a planted click model over its columns whose true probabilities are known.

Samples are drawn in pieces of fixed size, each with its own NumPy seed sequence. So sample r of a seed depends only on
(seed, r), however many samples are generated.

The logit is a sum of up to four parts, each scaled to a given standard deviation: effects of dense columns (a line and a
wave), of tokens, and of bags (the mean over a bag), and a factorization machine (Rendle, 2010) over all columns. Rare tokens
share prototypes, so memory does not depend on the cardinality. For any set of parts, the deviation of the sum and the mean
probability equal those of Criteo-like samples, so the task is as hard (Bayes AUC about 0.82). With only a few tokens per
column, the difficulty varies with the seed.
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

GENERATOR = 1  # increase it when the same configuration gives other samples; caches depend on it
PIECE = 1 << 16
"""Number of samples drawn with one seed sequence."""

_DEVIATIONS = {"dense": 0.75, "tokens": 1.15, "bags": 0.75, "interactions": 0.75}
_LOGIT_DEVIATION = 1.56  # standard deviation of the sum, equal to that of Criteo-like samples
_MODEL, _CALIBRATION, _EMITTED = range(3)  # random streams of a seed
_CALIBRATION_PIECES = 4  # gives the click rate a standard error of 0.0005
_COMMON, _PROTOTYPES = 512, 256  # tokens with their own effects, and prototypes for all others
_RANK = 3  # rank of the factorization machine
_SPREADS = (
    0.5,
    *[0.8] * _RANK,
)  # standard deviation of a column's log weights, for its effect and for its interactions
_RARE_STRENGTH = 0.3  # size of a rare token's effect and vector relative to a common one's
_WAVE = 0.4  # amplitude of a number's wave relative to its slope
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth, multiplicative hashing)

_Terms = npt.NDArray[np.float64]  # (N, 1 + 3) effect and latent vector of each sample's value in a column
_ToTerms = Callable[[Any], _Terms]  # takes numbers (N,), ranks (N,), or bags


class PlantedRows(NamedTuple):
    """N samples with their labels (N,) int8, and the probability (N,) float32 that each label was drawn from."""

    draws: Draws
    labels: npt.NDArray[np.int8]
    probability: npt.NDArray[np.float32]


def row_blocks(schema: Schema, config: SyntheticConfig, rows: int) -> Iterator[ColumnBlock]:
    """Generate samples 0..rows - 1 of a seed.

    Args:
        schema: the columns; a time column is ignored.
        config: seed and cardinality.
        rows: number of samples.

    Yields:
        Blocks in order. `probability` is P(label = 1 | values, tokens, and bags of the sample).
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
    """Generate the samples of `row_blocks`, before they are converted to blocks.

    Args:
        schema: the columns.
        config: seed and cardinality.
        rows: number of samples.

    Yields:
        Samples in order, at most `PIECE` at a time.

    Raises:
        ValueError: `rows` is less than 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}")
    planted = _plant(schema, config)
    for piece, start in enumerate(range(0, rows, PIECE)):
        draws = draw_columns(schema, config, _stream(config, _EMITTED, piece), PIECE)
        probability = planted.logit.probability(_parts(planted.columns, draws))
        labels = (draws.uniform < probability).astype(np.int8)
        kept = slice(rows - start)  # cut only now: shorter arrays may round differently
        yield PlantedRows(draws[kept], labels[kept], probability[kept])


def _hashed(texts: Any, schema: Schema) -> TokenTexts:
    """Hash texts to 63 bits, or to 32 for Criteo's format."""
    return TokenTexts(hashed(texts)[0] & np.uint64((1 << schema.token_bits) - 1), texts)


def _stream(config: SyntheticConfig, *place: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=place))


@dataclass(frozen=True)
class _Column:
    """The contribution of a column to the logit.

    Attributes:
        part: part of the logit that its effects belong to.
        raw: computes terms of its values, before centering and scaling.
        mean: (1 + 3,) subtracted from the terms, so that the factorization machine adds almost no main effects.
        scale: (1 + 3,) multiplies the centered terms.
    """

    part: str
    raw: _ToTerms
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def terms(self, values: Any) -> _Terms:
        """Return the effect and latent vector of each sample."""
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
    """Draw the contribution of each column. Means and deviations of its terms are estimated on `sample`."""
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
    """Return the parts of the logit. Interactions need two columns."""
    parts = {column.part for column in columns}
    return [part for part in _DEVIATIONS if part in parts or (part == "interactions" and len(columns) > 1)]


def _parts(columns: list[_Column], draws: Draws) -> npt.NDArray[np.float32]:
    """Return the parts (N, P) of the logits."""
    rows = len(draws.uniform)
    parts = {part: np.zeros(rows) for part in _DEVIATIONS}
    total, squares = np.zeros((rows, _RANK)), np.zeros(rows)
    for column, values in zip(columns, _values(draws), strict=True):
        terms = column.terms(values)
        parts[column.part] += terms[:, 0]
        total += terms[:, 1:]
        squares += np.square(terms[:, 1:]).sum(axis=1)
    # Rendle's identity gives the sum of dot products over pairs in time linear in the columns.
    parts["interactions"] = (np.square(total).sum(axis=1) - squares) / 2
    return np.stack([parts[part] for part in _present(columns)], axis=1).astype(np.float32)


def _number_terms(rng: np.random.Generator) -> Callable[[npt.NDArray[np.float64]], _Terms]:
    """Draw a smooth effect and a linear latent vector over standard normal numbers. Missing numbers have their own terms."""
    slope, wave = rng.normal(size=2) * (1, _WAVE)
    phase, direction, gone = rng.uniform(0, 2 * np.pi), rng.normal(size=_RANK), rng.normal(size=1 + _RANK)

    def terms(normal: npt.NDArray[np.float64]) -> _Terms:
        level = np.clip(normal, -3, 3)
        effect = slope * level + wave * np.sin(1.5 * level + phase)
        found = np.concatenate([effect[:, None], np.outer(level, direction)], axis=1)
        return np.where(np.isnan(level)[:, None], gone, found)

    return terms


def _token_terms(rng: np.random.Generator) -> Callable[[npt.NDArray[np.int64]], _Terms]:
    """Draw effects and vectors of common tokens, of the prototypes of rare ones, and last of the missing token."""
    table = rng.normal(size=(_COMMON + _PROTOTYPES + 1, 1 + _RANK))
    table[_COMMON:-1] *= _RARE_STRENGTH

    def terms(ranks: npt.NDArray[np.int64]) -> _Terms:
        prototype = (ranks.astype(np.uint64) * _SPREAD >> np.uint64(32)).astype(np.int64) % _PROTOTYPES
        code = np.where(ranks < _COMMON, ranks, _COMMON + prototype)
        return table[code]  # the rank of a missing token is -1, the index of the last entry

    return terms


def _bag_terms(of_values: Callable[[npt.NDArray[np.int64]], _Terms]) -> Callable[[Bags], _Terms]:
    """Return the terms of bags: the mean over their values, or the terms of a missing token if empty."""
    (empty,) = of_values(np.array([NO_TOKEN]))

    def terms(bags: Bags) -> _Terms:
        row = np.repeat(np.arange(len(bags)), bags.lengths)
        values, lengths = of_values(bags.values), bags.lengths[:, None]
        sums = [np.bincount(row, column, len(bags)) for column in values.T]
        return np.where(lengths > 0, np.stack(sums, axis=1) / np.maximum(lengths, 1), empty)

    return terms
