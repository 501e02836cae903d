"""Published statistics of the Criteo Kaggle training file, and distributions fitted to them.

The figures are published aggregates over all 45,840,617 samples: numbers of samples and clicks, missing
counts, moments and ranges of the integers, numbers of distinct tokens and of those above given counts, and
the largest shares of C1. This module neither reads nor stores any sample of the data.

A distribution is a list of ranges of consecutive integers, each with a mass spread evenly over it. The first
128 values have one range each, and later ranges grow. So a support of ten million tokens takes about five
hundred numbers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

ROWS = 45_840_617
CLICKS = 11_745_438
TAIL_COUNTS = (1000, 500, 100, 50, 25, 10, 5)
"""Counts over all samples at which the published tails are given, in descending order."""
C1_TOP_SHARES = {1: 0.5011, 2: 0.6679, 5: 0.8334, 10: 0.9091}
"""Joint share of the k most frequent tokens of C1, by k."""
MAX_RANGES = 511
"""Largest number of ranges of a distribution."""
SLOTS = MAX_RANGES + 1
"""Slots of an alias table. The last one has no range and is free for other uses."""

_SINGLE_VALUES = 128
_ZIPF_OFFSET = 2.0  # q of the Zipf-Mandelbrot head (r + q)**-s; s is fitted, q is not published
_STEEPEST = 2.5  # largest s; with very few tokens, tail counts do not determine s


@dataclass(frozen=True)
class IntegerMarginal:
    """Published statistics of one integer feature. Moments and range exclude missing values."""

    missing: int
    distinct: int
    mean: float
    sd: float
    low: int
    high: int


@dataclass(frozen=True)
class TokenMarginal:
    """Published statistics of one categorical feature. `tail[i]` tokens occur at least `TAIL_COUNTS[i]` times."""

    missing: int
    distinct: int
    tail: tuple[int, int, int, int, int, int, int]


@dataclass(frozen=True)
class Ranges:
    """A distribution on integers, uniform within each of M consecutive ranges.

    Attributes:
        low: (M,) int64, first value of each range, ascending without gaps.
        width: (M,) int64, number of values in each range, at least 1.
        mass: (M,) float64, sums to 1.
    """

    low: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    mass: npt.NDArray[np.float64]

    @property
    def middle(self) -> npt.NDArray[np.float64]:
        """(M,) float64 mean value of each range."""
        return self.low + (self.width - 1) / 2

    def moments(self) -> tuple[float, float]:
        """Return the mean and the standard deviation."""
        mean = float(self.mass @ self.middle)
        within = (self.width.astype(np.float64) ** 2 - 1) / 12
        return mean, float(np.sqrt(self.mass @ ((self.middle - mean) ** 2 + within)))

    def expected_distinct(self, rows: int, at_least: int = 1) -> float:
        """Return the expected number of values that occur `at_least` times among `rows` independent draws."""
        rate = rows * self.mass / self.width  # Poisson instead of binomial: the relevant masses are small
        return float(self.width @ special.gammainc(at_least, rate))


INTEGERS = (
    IntegerMarginal(20_793_556, 649, 3.5024133170754044, 9.429076407105093, 0, 5775),
    IntegerMarginal(0, 9364, 105.84841979766546, 391.4578226870699, -3, 257_675),
    IntegerMarginal(9_839_447, 14_746, 26.913041020611274, 397.97258302273343, 0, 65_535),
    IntegerMarginal(9_937_369, 490, 7.322680248873305, 8.793230712645762, 0, 969),
    IntegerMarginal(1_183_117, 476_707, 18_538.991664871523, 69_394.6018462232, 0, 23_159_456),
    IntegerMarginal(10_252_328, 11_618, 116.06185085211598, 382.56644937123986, 0, 431_037),
    IntegerMarginal(1_982_866, 4142, 16.333130032135028, 66.04975524511694, 0, 56_311),
    IntegerMarginal(22_773, 1373, 12.517042137556713, 16.688884567787493, 0, 6047),
    IntegerMarginal(1_982_866, 7275, 106.1098234380509, 220.28309398648057, 0, 29_019),
    IntegerMarginal(20_793_556, 13, 0.6175294977722137, 0.6840505553977008, 0, 11),
    IntegerMarginal(1_982_866, 169, 2.7328343170173044, 5.199070884811365, 0, 231),
    IntegerMarginal(35_071_652, 407, 0.9910356287721244, 5.597723872237184, 0, 4008),
    IntegerMarginal(9_937_369, 1376, 8.217461161174054, 16.21193255817365, 0, 7393),
)
"""I1 to I13. Fields with the same missing count are missing in the same samples."""

TOKENS = (
    TokenMarginal(0, 1460, (213, 295, 701, 1394, 1433, 1458, 1461)),
    TokenMarginal(0, 583, (482, 516, 540, 551, 552, 555, 558)),
    TokenMarginal(1_559_473, 10_131_227, (2585, 4869, 21_055, 40_203, 77_902, 193_949, 413_575)),
    TokenMarginal(1_559_473, 2_202_608, (3556, 6475, 23_839, 40_360, 68_146, 138_801, 248_610)),
    TokenMarginal(0, 305, (73, 97, 182, 290, 302, 306, 306)),
    TokenMarginal(5_540_625, 24, (12, 13, 15, 15, 17, 19, 22)),
    TokenMarginal(0, 12_517, (5277, 6998, 10_103, 10_904, 11_485, 11_970, 12_190)),
    TokenMarginal(0, 633, (120, 159, 351, 608, 625, 634, 634)),
    TokenMarginal(0, 3, (4, 4, 4, 4, 4, 4, 4)),
    TokenMarginal(0, 93_145, (4409, 6899, 16_433, 22_487, 30_042, 42_646, 54_714)),
    TokenMarginal(0, 5683, (3106, 3669, 4496, 4749, 4960, 5178, 5348)),
    TokenMarginal(1_559_473, 8_351_593, (2652, 4994, 21_498, 40_626, 78_045, 192_773, 409_900)),
    TokenMarginal(0, 3194, (2555, 2856, 3103, 3138, 3159, 3175, 3180)),
    TokenMarginal(0, 27, (26, 27, 27, 27, 27, 27, 27)),
    TokenMarginal(0, 14_992, (3003, 4029, 6967, 8394, 9762, 11_422, 12_498)),
    TokenMarginal(1_559_473, 5_461_306, (3015, 5578, 22_554, 41_449, 77_225, 181_075, 365_946)),
    TokenMarginal(0, 10, (11, 11, 11, 11, 11, 11, 11)),
    TokenMarginal(0, 5652, (1686, 2125, 3276, 3763, 4187, 4654, 4932)),
    TokenMarginal(20_172_858, 2173, (823, 1093, 1613, 1770, 1896, 2032, 2095)),
    TokenMarginal(20_172_858, 4, (5, 5, 5, 5, 5, 5, 5)),
    TokenMarginal(1_559_473, 7_046_547, (2755, 5204, 21_968, 41_012, 77_905, 189_657, 398_123)),
    TokenMarginal(34_955_073, 18, (10, 10, 14, 15, 16, 18, 19)),
    TokenMarginal(0, 15, (15, 15, 15, 16, 16, 16, 16)),
    TokenMarginal(1_559_473, 286_181, (3073, 5118, 15_131, 23_149, 35_306, 59_697, 88_624)),
    TokenMarginal(20_172_858, 105, (43, 46, 61, 65, 73, 86, 97)),
    TokenMarginal(20_172_858, 142_572, (2292, 3961, 12_296, 18_785, 28_028, 45_571, 64_079)),
)
"""C1 to C26. A few tails exceed the distinct count by one, because the publisher counted the empty token there."""


def cardinality(marginal: TokenMarginal, scale: float) -> int:
    """Return the number of distinct tokens of a feature at a `scale` in (0, 1] of the published number; at least 3."""
    return max(3, round(marginal.distinct * scale))


def fit_integer(marginal: IntegerMarginal) -> Ranges:
    """Fit `floor(lognormal) + low`, truncated above `high`, to the published mean and deviation.

    Args:
        marginal: mean and sd in the units of the feature; the distinct count is not used.

    Returns:
        A distribution on low..high with the published moments.
    """
    edges = _edges(marginal.high - marginal.low + 1)
    mean, sd = marginal.mean - marginal.low, marginal.sd

    def ranges(parameters: npt.NDArray[np.float64]) -> Ranges:
        log_median, log_sigma = parameters
        with np.errstate(divide="ignore"):
            below = special.ndtr((np.log(edges) - log_median) / np.exp(log_sigma))
        return Ranges(edges[:-1], np.diff(edges), np.diff(below) / below[-1])

    def misfit(parameters: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.log(ranges(parameters).moments()) - np.log((mean, sd))

    from scipy import optimize  # takes half a second to import, and is needed only once

    variance = np.log1p(
        (sd / mean) ** 2
    )  # of the logarithm, if the distribution were not floored and truncated
    start = (np.log(mean + 0.5) - variance / 2, np.log(variance) / 2)
    fitted = ranges(optimize.least_squares(misfit, start, xtol=1e-12, ftol=1e-12, gtol=1e-12).x)
    return Ranges(fitted.low + marginal.low, fitted.width, fitted.mass)


def fit_tokens(marginal: TokenMarginal, scale: float, pinned: dict[int, float] | None = None) -> Ranges:
    """Fit the frequencies of a feature's tokens, most frequent first, to its published tail counts.

    Frequency is a power law of rank between successive published tail counts. Above the highest it is a
    Zipf-Mandelbrot law, whose exponent makes the total mass 1. A scale below 1 keeps the mass of each segment
    but shortens it, so `scale * ROWS` samples have `scale` times the published counts.

    Args:
        marginal: distinct and tail counts of the feature.
        scale: fraction of the published number of tokens, in (0, 1].
        pinned: published cumulative shares of the first tokens, by number of tokens. The others share the
            rest; if there are very few others (C1 below a scale of 0.012), some exceed the first.

    Returns:
        A distribution on the ranks 0..cardinality - 1.
    """
    size = cardinality(marginal, scale)
    scale = size / marginal.distinct
    edges = _edges(size)
    width = np.diff(edges)
    rank = (edges[:-1] + edges[1:]) / 2
    knots, counts = _tail_knots(marginal)
    one_row = 1 / ((ROWS - marginal.missing) * scale)  # frequency of a token that occurs once
    curve = np.exp(np.interp(np.log(rank / scale), np.log(knots), np.log(counts))) * one_row
    head = rank < knots[0] * scale
    rest = 1 - curve[~head] @ width[~head]
    steepness = np.log((knots[0] + _ZIPF_OFFSET) / (rank[head] / scale + _ZIPF_OFFSET))

    def excess(exponent: float) -> float:
        return float(np.exp(exponent * steepness) @ (curve[head] * width[head]) - rest)

    from scipy import optimize  # takes half a second to import, and is needed only once

    exponent = 0.0 if excess(0) >= 0 else _STEEPEST
    if excess(0) < 0 < excess(_STEEPEST):
        exponent = float(optimize.brentq(excess, 0, _STEEPEST))  # pyright: ignore[reportArgumentType]
    curve[head] *= np.exp(exponent * steepness)
    mass = curve * width
    if pinned is not None:
        mass = _pin(mass, pinned)
    return Ranges(edges[:-1], width, mass / mass.sum())


def fit_fields(scale: float) -> list[Ranges]:
    """Return the fitted distributions of the values of I1..I13, and of the ranks of C1..C26 at a `scale`."""
    return [
        *(fit_integer(marginal) for marginal in INTEGERS),
        fit_tokens(TOKENS[0], scale, C1_TOP_SHARES),
        *(fit_tokens(marginal, scale) for marginal in TOKENS[1:]),
    ]


def missing_groups() -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return field bits and 32-bit threshold of each group of fields with the same nonzero missing count."""
    missing = np.array([field.missing for field in (*INTEGERS, *TOKENS)])
    counts = np.unique(missing[missing > 0])
    bits = np.uint64(1) << np.arange(len(missing), dtype=np.uint64)
    groups = np.array([bits[missing == count].sum() for count in counts], dtype=np.uint64)
    return groups, np.rint(counts / ROWS * 2**32).astype(np.uint64)


def alias_table(mass: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Build Walker's alias table by Vose's method.

    Args:
        mass: (M,) mass of the bins, sums to 1; the other slots have mass 0.

    Returns:
        alias (512,) and alias_from (512,): slot s gives bin s for a 32-bit draw below alias_from[s], else alias[s].
    """
    fill = np.pad(mass * SLOTS, (0, SLOTS - len(mass)))
    alias = np.arange(SLOTS, dtype=np.uint64)
    short = [slot for slot in range(SLOTS) if fill[slot] < 1]
    full = [slot for slot in range(SLOTS) if fill[slot] >= 1]
    while short and full:
        slot, donor = short.pop(), full[-1]
        alias[slot] = donor
        fill[donor] -= 1 - fill[slot]
        if fill[donor] < 1:
            short.append(full.pop())
    # Slots left over by rounding keep themselves as alias.
    return alias, np.rint(np.clip(fill, 0, 1) * 2**32).astype(np.uint64)


def _edges(size: int) -> npt.NDArray[np.int64]:
    """Return at most `MAX_RANGES` + 1 edges of ranges that cover 0..size - 1."""
    single = min(size, _SINGLE_VALUES)
    growing = np.geomspace(single, size, MAX_RANGES + 1 - single)
    return np.unique(np.concatenate([np.arange(single), np.rint(growing)]).astype(np.int64))


def _tail_knots(marginal: TokenMarginal) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return strictly ascending ranks, and the count of the token at each rank."""
    ranks, counts = [0.0], [0.0]
    for rank, count in zip((*marginal.tail, marginal.distinct), (*TAIL_COUNTS, 1), strict=True):
        if min(rank, marginal.distinct) > ranks[-1]:
            ranks.append(float(min(rank, marginal.distinct)))
            counts.append(float(count))
    return np.array(ranks[1:]), np.array(counts[1:])


def _pin(mass: npt.NDArray[np.float64], shares: dict[int, float]) -> npt.NDArray[np.float64]:
    """Give the first tokens their published cumulative shares, and rescale the others to the rest."""
    mass = mass.copy()
    start, held = 0, 0.0
    for stop, share in shares.items():
        mass[start:stop] = (share - held) / (stop - start)
        start, held = stop, share
    if mass[start:].size:
        mass[start:] *= (1 - held) / mass[start:].sum()
    return mass
