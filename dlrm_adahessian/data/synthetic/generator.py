"""Generate samples like Criteo's, with published marginals and a planted click model whose true probabilities are known.

Sample r of a seed depends only on (seed, r): its random numbers are SplitMix64 started at a hash of the
sample index (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). So samples do not
depend on how many are generated or on the block size, and no table grows with their number.

Features are dependent. Each feature is an alias table over 512 slots (Walker, 1977), so a uniform slot gives
its exact marginal. Each sample has a segment, uniform over 512. A random quarter of its features take the
slot that the segment determines instead of a slot of their own.

The logit is a sum of three parts, each scaled to a given standard deviation: effects of integers (a line and
a wave in the logarithm), effects of tokens, and a factorization machine (Rendle, 2010) over both. Rare tokens
share prototypes, chosen by hash, so memory does not depend on the cardinality. The intercept makes the mean
probability equal to the published click rate.

The deviations make the task as hard as the real one (AUC 0.80, log loss 0.45). With a million samples, six
in seven of them for training, seeds 0 to 3 have a Bayes AUC of 0.825 to 0.830. After one epoch, a small
DLRM reached 0.795 to 0.809, and a logistic regression on tokens and binned integers 0.777 to 0.801.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import special

from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.columns import NUM_INTEGERS, NUM_TOKENS, CriteoBlock
from dlrm_adahessian.data.criteo.text import format_rows
from dlrm_adahessian.data.synthetic import marginals
from dlrm_adahessian.data.synthetic.calibration import Logit, calibrated
from dlrm_adahessian.runs.files import replacing
from dlrm_adahessian.runs.sealed import storage_errors

PART_DEVIATIONS = (0.75, 1.15, 0.75)
"""Standard deviation, in logits, of the effects of integers, of tokens, and of the interactions."""

GENERATOR = 2  # increase it when the same configuration gives other samples; caches depend on it
_FIELDS = NUM_INTEGERS + NUM_TOKENS
_SLOTS = marginals.SLOTS
_MISSING = marginals.MAX_RANGES  # bin of a missing integer; no distribution has that many ranges
_PROTOTYPES = 256  # a rare token, whose bin has several tokens, behaves like one of these
_CODES = _SLOTS + _PROTOTYPES
_RANK = 3  # rank of the factorization machine
_EFFECT_SPREAD, _LATENT_SPREAD = 0.5, 0.8  # standard deviation of the log weights of the fields
_RARE_STRENGTH = 0.3  # size of a rare token's effect and vector relative to a common one's
_WAVE = 0.4  # amplitude of an integer's wave relative to its slope
_CALIBRATION_BLOCKS, _CALIBRATION_ROWS = 8, 1 << 16  # gives the click rate a standard error of 0.0003
_AFTER_FIELDS = _FIELDS + 3  # random numbers: fields, segment, fields that follow it, label, missing groups

_GOLDEN = (5**0.5 - 1) / 2
_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HASH_A, _HASH_B = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


class _Tables(NamedTuple):
    """Inputs of the kernel. The 39 fields are I1..I13 and C1..C26; M groups of them are missing together."""

    row_key: np.uint64
    token_key: np.uint64
    group: npt.NDArray[np.uint64]  # (M,) bits of the group's fields, as in `CriteoBlock.missing`
    missing_below: npt.NDArray[np.uint64]  # (M,) the group is missing if a 32-bit draw is below this
    alias: npt.NDArray[np.uint64]  # (39, 512) second bin of the slot; the first is the slot itself
    alias_from: npt.NDArray[np.uint64]  # (39, 512) a 32-bit draw of at least this takes the second bin
    low: npt.NDArray[np.int64]  # (39, 512) first value of the bin
    width: npt.NDArray[np.uint64]  # (39, 512) number of values in the bin
    segment_step: npt.NDArray[np.uint64]  # (39,) 1 or 511, which is -1: slot = segment * step + shift
    segment_shift: npt.NDArray[np.uint64]  # (39,)
    effect: npt.NDArray[np.float32]  # (39, 768) by code: the bin, or 512 + the prototype of a rare token
    latent: npt.NDArray[np.float32]  # (39, 768, 3) by code


class _Draws(NamedTuple):
    """Samples without labels: columns as in `CriteoBlock`, parts of the logit (N, 3), and uniforms (N,)."""

    integers: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint32]
    missing: npt.NDArray[np.uint64]
    parts: npt.NDArray[np.float32]
    uniform: npt.NDArray[np.float64]


class _Planted(NamedTuple):
    """A complete click model: the kernel's tables, and the logit as a function of the parts."""

    tables: _Tables
    logit: Logit


def row_blocks(config: SyntheticConfig, rows: int, *, block_rows: int = 65536) -> Iterator[CriteoBlock]:
    """Generate samples 0..rows - 1 of a seed, with the probability that each label was drawn from.

    Args:
        config: seed and cardinality.
        rows: number of samples.
        block_rows: samples per block; the last block may be shorter. Does not change the samples.

    Yields:
        Blocks in order. `probability` is P(label = 1 | integers and tokens of the sample).

    Raises:
        ValueError: a count is out of range.
    """
    if rows < 0 or block_rows < 1:
        raise ValueError(f"rows {rows} must be at least 0 and block_rows {block_rows} at least 1")
    planted = _plant(config)
    for start in range(0, rows, block_rows):
        draws = _draw(planted.tables, start, min(block_rows, rows - start))
        probability = planted.logit.probability(draws.parts)
        yield CriteoBlock(
            labels=(draws.uniform < probability).astype(np.int8),
            integers=draws.integers,
            tokens=draws.tokens,
            missing=draws.missing,
            probability=probability,
        )


def write_tsv(config: SyntheticConfig, rows: int, path: Path) -> None:
    """Write samples 0..rows - 1 in the raw format of Criteo's train.txt, without probabilities.

    Args:
        config: seed and cardinality.
        rows: number of samples.
        path: the output file; replaced if it exists.
    """
    with storage_errors(path), replacing(path) as file:
        for block in row_blocks(config, rows):
            file.write(format_rows(block))


@lru_cache(maxsize=4)
def _plant(config: SyntheticConfig) -> _Planted:
    """Draw the click model of a seed."""
    model_seed, keys = np.random.SeedSequence(config.seed).spawn(2)
    row_key, calibration_key, token_key = keys.generate_state(3, np.uint64)
    tables = _tables(config, np.random.default_rng(model_seed), row_key, token_key)
    unseen = tables._replace(row_key=calibration_key)
    parts = np.concatenate(
        [
            _draw(unseen, block * _CALIBRATION_ROWS, _CALIBRATION_ROWS).parts
            for block in range(_CALIBRATION_BLOCKS)
        ]
    )
    return _Planted(tables, calibrated(parts, PART_DEVIATIONS, marginals.CLICKS / marginals.ROWS))


def _tables(
    config: SyntheticConfig, rng: np.random.Generator, row_key: np.uint64, token_key: np.uint64
) -> _Tables:
    """Build the kernel's tables from the published marginals, with effects drawn from `rng`."""
    fields = marginals.fit_fields(config.cardinality_scale)
    alias, alias_from = zip(*(marginals.alias_table(field.mass) for field in fields), strict=True)
    group, missing_below = marginals.missing_groups()
    effect, latent = _planted_codes(fields, rng)
    return _Tables(
        row_key=row_key,
        token_key=token_key,
        group=group,
        missing_below=missing_below,
        alias=np.stack(alias),
        alias_from=np.stack(alias_from),
        low=np.stack([_padded(field.low) for field in fields]),
        width=np.stack([_padded(field.width) for field in fields]).astype(np.uint64),
        segment_step=rng.choice(np.array([1, _SLOTS - 1], np.uint64), _FIELDS),
        segment_shift=rng.integers(_SLOTS, size=_FIELDS, dtype=np.uint64),
        effect=effect,
        latent=latent,
    )


def _padded(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.pad(values, (0, _SLOTS - len(values)))


def _planted_codes(
    fields: list[marginals.Ranges], rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw the effect (39, 768) and the latent vector (39, 768, 3) of each code.

    Both have mean 0 over the samples that have the field, so that the factorization machine adds interactions
    and almost no main effects. A field with a larger deviation than 1 is scaled down to 1. One with a smaller
    deviation is not scaled up: if nearly all samples agree, the few others would get huge effects.

    Returns:
        Effects and latent vectors, float32.
    """
    effect = np.zeros((_FIELDS, _CODES), np.float32)
    latent = np.zeros((_FIELDS, _CODES, _RANK), np.float32)
    effect_weight, latent_weight = _weights(_EFFECT_SPREAD, 0.5), _weights(_LATENT_SPREAD, 0.0)
    for index, field in enumerate(fields):
        if index < NUM_INTEGERS:
            raw = _integer_codes(field, rng)
            mass = np.pad(field.mass, (0, _CODES - len(field.mass)))
        else:
            raw = rng.normal(size=(_CODES, 1 + _RANK))
            raw[_SLOTS:] *= _RARE_STRENGTH
            common = np.where(field.width == 1, field.mass, 0)
            rare = np.full(_PROTOTYPES, (1 - common.sum()) / _PROTOTYPES)
            mass = np.concatenate([common, np.zeros(_SLOTS - len(common)), rare])
        raw -= mass @ raw
        deviation = np.maximum(np.sqrt(mass @ raw**2), 1)
        effect[index] = effect_weight[index] * raw[:, 0] / deviation[0]
        latent[index] = latent_weight[index] * raw[:, 1:] / deviation[1:]
    return effect, latent


def _weights(spread: float, offset: float) -> npt.NDArray[np.float64]:
    """Return the weight of each field (39,): lognormal quantiles in a fixed order for all seeds.

    Multiples of the golden ratio, modulo 1, spread the weights evenly over integers and over small and large
    vocabularies, so that all seeds are about equally hard.
    """
    order = np.argsort(np.argsort((np.arange(_FIELDS) * _GOLDEN + offset) % 1))
    return np.exp(spread * special.ndtri((order + 0.5) / _FIELDS))


def _integer_codes(field: marginals.Ranges, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw a smooth effect and a linear latent vector (768, 1 + 3) over the logarithm of an integer's bins."""
    log = np.log1p(np.maximum(field.middle, 0))
    mean = field.mass @ log
    level = np.clip((log - mean) / np.sqrt(field.mass @ (log - mean) ** 2), -3, 3)
    slope, wave = rng.normal(size=2) * (1, _WAVE)
    codes = np.zeros((_CODES, 1 + _RANK))
    codes[: len(level), 0] = slope * level + wave * np.sin(1.5 * level + rng.uniform(0, 2 * np.pi))
    codes[: len(level), 1:] = np.outer(level, rng.normal(size=_RANK))
    codes[_MISSING] = rng.normal(size=1 + _RANK)
    return codes


def _draw(tables: _Tables, start: int, rows: int) -> _Draws:
    """Draw samples start..start + rows - 1 of the key in `tables`."""
    draws = _Draws(
        integers=np.empty((rows, NUM_INTEGERS), np.int64),
        tokens=np.empty((rows, NUM_TOKENS), np.uint32),
        missing=np.empty(rows, np.uint64),
        parts=np.empty((rows, 3), np.float32),
        uniform=np.empty(rows, np.float64),
    )
    _fill(np.uint64(start), tables, draws)
    return draws


@njit(cache=True)
def _mix64(x: np.uint64) -> np.uint64:
    """Apply SplitMix64's finalizer, a bijection."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_A
    x = (x ^ (x >> np.uint64(27))) * _MIX_B
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _token_value(field: np.uint32, rank: np.uint32) -> np.uint32:
    """Hash a token. This is a bijection on (field below 32, rank below 2**27), so tokens never collide."""
    # Numba widens 32-bit products to 64 bits. Without the casts this would not be a bijection.
    x = np.uint32((field << np.uint32(27)) | rank)
    x = np.uint32((x ^ (x >> np.uint32(16))) * _HASH_A)
    x = np.uint32((x ^ (x >> np.uint32(15))) * _HASH_B)
    return np.uint32(x ^ (x >> np.uint32(16)))


@njit(cache=True)
def _random(row_state: np.uint64, index: int) -> np.uint64:
    """Return the 64 random bits of a sample with this index."""
    return _mix64(row_state + np.uint64(index + 1) * _WEYL)


@njit(cache=True)
def _draw_missing(
    row_state: np.uint64, group: npt.NDArray[np.uint64], missing_below: npt.NDArray[np.uint64]
) -> np.uint64:
    """Return the bits of the missing fields of a sample."""
    missing = np.uint64(0)
    for m in range(len(group)):
        if (_random(row_state, _AFTER_FIELDS + m) >> np.uint64(32)) < missing_below[m]:
            missing |= group[m]
    return missing


@njit(cache=True, nogil=True)
def _fill(start: np.uint64, tables: _Tables, draws: _Draws) -> None:
    """Fill `draws` with the samples from `start` on."""
    one, last_slot = np.uint64(1), np.uint64(_SLOTS - 1)
    effects, latent_sum = np.empty(2, np.float32), np.empty(_RANK, np.float32)
    for n in range(len(draws.missing)):
        row_state = _mix64(tables.row_key + (start + np.uint64(n)) * _WEYL)
        missing = _draw_missing(row_state, tables.group, tables.missing_below)
        segment = _random(row_state, _FIELDS)
        follows = (_random(row_state, _FIELDS + 1) & segment) >> np.uint64(9)
        effects[:] = 0
        latent_sum[:] = 0
        squares = np.float32(0)
        for field in range(_FIELDS):
            draw = _random(row_state, field)
            slot = draw
            if (follows >> np.uint64(field)) & one:
                slot = segment * tables.segment_step[field] + tables.segment_shift[field]
            code = slot & last_slot
            if ((draw >> np.uint64(9)) & np.uint64(0xFFFFFFFF)) >= tables.alias_from[field, code]:
                code = tables.alias[field, code]
            width = tables.width[field, code]
            # 23 of the draw's 64 bits are unused, which is enough: no range is wider than 2**20.
            value = tables.low[field, code] + np.int64(((draw >> np.uint64(41)) * width) >> np.uint64(23))
            present = not (missing >> np.uint64(field)) & one
            if field < NUM_INTEGERS:
                draws.integers[n, field] = value if present else 0
            else:
                token = _token_value(np.uint32(field - NUM_INTEGERS), np.uint32(value))
                draws.tokens[n, field - NUM_INTEGERS] = token if present else np.uint32(0)
                if width > one:
                    code = np.uint64(_SLOTS) + _mix64(tables.token_key + token) % np.uint64(_PROTOTYPES)
            if not present:
                code = np.uint64(_MISSING)
            effects[0 if field < NUM_INTEGERS else 1] += tables.effect[field, code]
            for k in range(_RANK):
                latent = tables.latent[field, code, k]
                latent_sum[k] += latent
                squares += latent * latent
        draws.parts[n, 0] = effects[0]
        draws.parts[n, 1] = effects[1]
        # Rendle's identity gives the sum of dot products over pairs in time linear in the fields.
        interaction = -squares
        for k in range(_RANK):
            interaction += latent_sum[k] * latent_sum[k]
        draws.parts[n, 2] = interaction / np.float32(2)
        draws.missing[n] = missing
        draws.uniform[n] = np.float64(_random(row_state, _FIELDS + 2) >> np.uint64(11)) * 2.0**-53
