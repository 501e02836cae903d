"""Rows like Criteo's, generated: published marginals, and a planted click model whose truth is known.

Row r of a seed is a function of (seed, r) alone: its random numbers are SplitMix64 started at a hash of
the row number (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). So rows are
the same however many are asked for and in whatever blocks, and no table grows with their number.

Features depend on each other. A feature is an alias table over 512 slots (Walker, 1977), and a uniform
slot gives its marginal exactly; each row has a segment, uniform over 512, and half of its features, drawn
anew per row, take the slot that the segment points to instead of one of their own.

The logit is a sum of three parts, each scaled to a stated deviation: effects of tokens, effects of
integers (nonlinear in the logarithm), and a factorisation machine (Rendle, 2010) over both. Effect and
latent vector of a token are hashed from its rank, so memory does not depend on the cardinality. The
intercept is set so that the mean probability is the published click rate.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit
from scipy import optimize, special

from dlrm_adahessian.data import marginals
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.schema import NUM_INTEGERS, NUM_TOKENS, RowBlock

PART_DEVIATIONS = (1.0, 0.6, 1.0)
"""Standard deviation, in logits, of the effects of tokens, of integers, and of the interactions."""

_FIELDS = NUM_INTEGERS + NUM_TOKENS
_SLOTS = marginals.MAX_RANGES + 1
_MISSING = marginals.MAX_RANGES  # bin of a missing integer; no distribution has that many ranges
_RANK = 7  # of the factorisation machine; with the effect, a byte each of a 64-bit hash
_AMPLITUDE_SPREAD = 0.5  # deviation of the logarithm of how much a feature matters
_CALIBRATION_ROWS = 1 << 17  # their mean probability has a standard error of 0.0007

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_MIX_A, _MIX_B = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HASH_A, _HASH_B = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


class _Tables(NamedTuple):
    """What the row kernel reads; 39 fields are I1..I13, C1..C26, and M groups of them go missing together."""

    row_key: np.uint64
    token_key: np.uint64
    group: npt.NDArray[np.uint64]  # (M,) bits of the group's fields, as in `RowBlock.missing`
    missing_below: npt.NDArray[np.uint64]  # (M,) a 32-bit draw below this: the group is missing
    alias: npt.NDArray[np.uint64]  # (39, 512) the slot's second bin; its first is the slot itself
    alias_from: npt.NDArray[np.uint64]  # (39, 512) a 32-bit draw from here on takes the second
    low: npt.NDArray[np.int64]  # (39, 512) first value of the bin
    width: npt.NDArray[np.uint64]  # (39, 512) values in the bin
    segment_step: npt.NDArray[np.uint64]  # (39,) odd: segment * step + shift permutes the slots
    segment_shift: npt.NDArray[np.uint64]  # (39,)
    effect: npt.NDArray[np.float32]  # (13, 512) of an integer's bin
    latent: npt.NDArray[np.float32]  # (13, 512, 7) of an integer's bin
    amplitude: npt.NDArray[np.float32]  # (26,) on effect and latent vector of a token
    normal: npt.NDArray[np.float32]  # (256,) a byte to a standard normal


class _Draws(NamedTuple):
    """Rows before their labels: columns as in `RowBlock`, parts of the logit (N, 3), uniforms (N,)."""

    integers: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.uint32]
    missing: npt.NDArray[np.uint64]
    parts: npt.NDArray[np.float32]
    uniform: npt.NDArray[np.float64]


class _Planted(NamedTuple):
    """A complete generator: tables of the kernel, and logit = parts @ scale + intercept."""

    tables: _Tables
    scale: npt.NDArray[np.float64]
    intercept: float

    def probability(self, parts: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return P(click) (N,) of parts (N, 3)."""
        return special.expit(parts @ self.scale + self.intercept).astype(np.float32)


def row_blocks(config: SyntheticConfig, rows: int, *, block_rows: int = 65536) -> Iterator[RowBlock]:
    """Generate rows 0..rows - 1 of a seed, with the probability that each label was drawn from.

    Args:
        config: seed and cardinality.
        rows: how many rows.
        block_rows: rows per block, the last one may be shorter; changes no row.

    Yields:
        Blocks in order; `probability` is P(label = 1 | the row's integers and tokens).

    Raises:
        ValueError: a count is out of range.
    """
    if rows < 0 or block_rows < 1:
        raise ValueError(f"rows {rows} must be at least 0 and block_rows {block_rows} at least 1")
    planted = _plant(config)
    for start in range(0, rows, block_rows):
        draws = _draw(planted.tables, start, min(block_rows, rows - start))
        probability = planted.probability(draws.parts)
        yield RowBlock(
            labels=(draws.uniform < probability).astype(np.int8),
            integers=draws.integers,
            tokens=draws.tokens,
            missing=draws.missing,
            probability=probability,
        )


@lru_cache(maxsize=4)
def _plant(config: SyntheticConfig) -> _Planted:
    """Draw the click model of a seed, and set its scales and intercept on rows that are never emitted."""
    model_seed, keys = np.random.SeedSequence(config.seed).spawn(2)
    row_key, calibration_key, token_key = keys.generate_state(3, np.uint64)
    tables = _tables(config, np.random.default_rng(model_seed), row_key, token_key)
    parts = _draw(tables._replace(row_key=calibration_key), 0, _CALIBRATION_ROWS).parts
    scale = np.array(PART_DEVIATIONS) / parts.std(axis=0, dtype=np.float64)
    logits = parts @ scale

    def excess(intercept: float) -> float:
        return float(special.expit(logits + intercept).mean()) - marginals.CLICKS / marginals.ROWS

    centre = float(logits.mean())
    return _Planted(tables, scale, float(optimize.brentq(excess, -centre - 20, -centre + 20)))


def _tables(
    config: SyntheticConfig, rng: np.random.Generator, row_key: np.uint64, token_key: np.uint64
) -> _Tables:
    """Build the kernel's tables: marginals of the published figures, effects drawn from `rng`."""
    integers = [marginals.fit_integer(marginal) for marginal in marginals.INTEGERS]
    pinned = [marginals.C1_TOP_SHARES] + [None] * (NUM_TOKENS - 1)
    tokens = [
        marginals.fit_tokens(marginal, config.cardinality_scale, shares)
        for marginal, shares in zip(marginals.TOKENS, pinned, strict=True)
    ]
    alias, alias_from = zip(*(_alias_table(field.mass) for field in (*integers, *tokens)), strict=True)
    group, missing_below = _missing_groups()
    effect, latent = zip(*(_integer_effects(field, rng) for field in integers), strict=True)
    return _Tables(
        row_key=row_key,
        token_key=token_key,
        group=group,
        missing_below=missing_below,
        alias=np.stack(alias),
        alias_from=np.stack(alias_from),
        low=np.stack([_padded(field.low) for field in (*integers, *tokens)]),
        width=np.stack([_padded(field.width).astype(np.uint64) for field in (*integers, *tokens)]),
        segment_step=rng.integers(_SLOTS // 2, size=_FIELDS, dtype=np.uint64) * 2 + 1,
        segment_shift=rng.integers(_SLOTS, size=_FIELDS, dtype=np.uint64),
        effect=np.stack(effect),
        latent=np.stack(latent),
        amplitude=rng.lognormal(0, _AMPLITUDE_SPREAD, NUM_TOKENS).astype(np.float32),
        normal=special.ndtri((np.arange(256) + 0.5) / 256).astype(np.float32),
    )


def _padded(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.pad(values, (0, _SLOTS - len(values)))


def _missing_groups() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return field bits and 32-bit threshold of each set of fields with the same missing count, none at 0."""
    missing = np.array([field.missing for field in (*marginals.INTEGERS, *marginals.TOKENS)])
    counts = np.unique(missing[missing > 0])
    bits = np.uint64(1) << np.arange(_FIELDS, dtype=np.uint64)
    groups = np.array([bits[missing == count].sum() for count in counts], dtype=np.uint64)
    return groups, np.rint(counts / marginals.ROWS * 2**32).astype(np.uint64)


def _alias_table(mass: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Build Walker's alias table by Vose's method.

    Args:
        mass: (M,) of the bins, adds up to 1; the other slots have none.

    Returns:
        alias (512,) and alias_from (512,): slot s is bin s for a 32-bit draw below alias_from[s], else alias[s].
    """
    fill = np.pad(mass * _SLOTS, (0, _SLOTS - len(mass)))
    alias = np.arange(_SLOTS, dtype=np.uint64)
    short = [slot for slot in range(_SLOTS) if fill[slot] < 1]
    full = [slot for slot in range(_SLOTS) if fill[slot] >= 1]
    while short and full:
        slot, donor = short.pop(), full[-1]
        alias[slot] = donor
        fill[donor] -= 1 - fill[slot]
        if fill[donor] < 1:
            short.append(full.pop())
    # What rounding leaves over stands alone: its alias is itself.
    return alias, np.rint(np.clip(fill, 0, 1) * 2**32).astype(np.uint64)


def _integer_effects(
    field: marginals.Ranges, rng: np.random.Generator
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Draw a smooth effect (512,) and latent vectors (512, 7) over the logarithm of an integer's bins."""
    log = np.log1p(np.maximum(field.middle, 0))
    mean = field.mass @ log
    level = (log - mean) / np.sqrt(field.mass @ (log - mean) ** 2)  # mean 0, deviation 1
    slope, wave = rng.normal(size=2)
    effect = slope * level + wave * np.sin(1.5 * level + rng.uniform(0, 2 * np.pi))
    effects = np.zeros(_SLOTS, np.float32)
    effects[: len(effect)] = effect
    latents = np.zeros((_SLOTS, _RANK), np.float32)
    latents[: len(effect)] = np.outer(np.clip(level, -3, 3), rng.normal(size=_RANK))
    effects[_MISSING] = rng.normal()
    latents[_MISSING] = rng.normal(size=_RANK)
    return effects, latents


def _draw(tables: _Tables, start: int, rows: int) -> _Draws:
    """Draw rows start..start + rows - 1 of the key in `tables`."""
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
    """SplitMix64's finaliser, a bijection."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_A
    x = (x ^ (x >> np.uint64(27))) * _MIX_B
    return x ^ (x >> np.uint64(31))


@njit(cache=True)
def _token_value(field: np.uint32, rank: np.uint32) -> np.uint32:
    """Hash a token, a bijection on (field below 32, rank below 2**27), so that no two tokens look alike."""
    x = (field << np.uint32(27)) | rank
    x = (x ^ (x >> np.uint32(16))) * _HASH_A
    x = (x ^ (x >> np.uint32(15))) * _HASH_B
    return x ^ (x >> np.uint32(16))


@njit(cache=True, nogil=True)
def _fill(start: np.uint64, tables: _Tables, draws: _Draws) -> None:
    """Fill `draws` with rows from `start` on."""
    one, half = np.uint64(1), np.uint64(32)
    slot_bits, coin_bits = np.uint64(_SLOTS - 1), np.uint64(0xFFFFFFFF)
    latent_sum = np.empty(_RANK, np.float32)
    for n in range(len(draws.missing)):
        state = _mix64(tables.row_key + (start + np.uint64(n)) * _WEYL)
        missing = np.uint64(0)
        for m in range(len(tables.group)):
            state += _WEYL
            if (_mix64(state) >> half) < tables.missing_below[m]:
                missing |= tables.group[m]
        draws.missing[n] = missing
        state += _WEYL
        segment = _mix64(state)
        latent_sum[:] = 0
        squares = np.float32(0)
        token_effect = np.float32(0)
        integer_effect = np.float32(0)
        for field in range(_FIELDS):
            state += _WEYL
            draw = _mix64(state)
            slot = draw & slot_bits
            if (segment >> np.uint64(9 + field)) & one:
                slot = ((segment & slot_bits) * tables.segment_step[field] + tables.segment_shift[field]) & slot_bits
            if ((draw >> np.uint64(9)) & coin_bits) >= tables.alias_from[field, slot]:
                slot = tables.alias[field, slot]
            # 23 bits are left, and no range is wider than 2**20.
            offset = ((draw >> np.uint64(41)) * tables.width[field, slot]) >> np.uint64(23)
            value = tables.low[field, slot] + np.int64(offset)
            absent = (missing >> np.uint64(field)) & one
            if field < NUM_INTEGERS:
                if absent:
                    slot = np.uint64(_MISSING)
                draws.integers[n, field] = 0 if absent else value
                integer_effect += tables.effect[field, slot]
                for k in range(_RANK):
                    latent = tables.latent[field, slot, k]
                    latent_sum[k] += latent
                    squares += latent * latent
            else:
                token = field - NUM_INTEGERS
                rank = np.uint32(0x7FFFFFF) if absent else np.uint32(value)
                hashed = _token_value(np.uint32(token), rank)
                draws.tokens[n, token] = np.uint32(0) if absent else hashed
                code = _mix64(tables.token_key ^ (np.uint64(hashed) * _WEYL))
                amplitude = tables.amplitude[token]
                token_effect += amplitude * tables.normal[code & np.uint64(255)]
                for k in range(_RANK):
                    code >>= np.uint64(8)
                    latent = amplitude * tables.normal[code & np.uint64(255)]
                    latent_sum[k] += latent
                    squares += latent * latent
        state += _WEYL
        draws.uniform[n] = np.float64(_mix64(state) >> np.uint64(11)) * 2.0**-53
        interaction = -squares
        for k in range(_RANK):
            interaction += latent_sum[k] * latent_sum[k]
        draws.parts[n, 0] = token_effect
        draws.parts[n, 1] = integer_effect
        draws.parts[n, 2] = interaction / np.float32(2)
