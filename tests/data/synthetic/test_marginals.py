"""Compare fitted marginals with the published figures, which are repeated here."""

import numpy as np
import pytest

from dlrm_adahessian.data.criteo.columns import TOKEN_NAMES
from dlrm_adahessian.data.synthetic import marginals

TAILS = {  # number of tokens that occur at least 10, 100, and 1000 times in the published data
    "C3": (193_949, 21_055, 2585),
    "C4": (138_801, 23_839, 3556),
    "C7": (11_970, 10_103, 5277),
    "C10": (42_646, 16_433, 4409),
    "C12": (192_773, 21_498, 2652),
    "C15": (11_422, 6967, 3003),
    "C16": (181_075, 22_554, 3015),
    "C21": (189_657, 21_968, 2755),
    "C24": (59_697, 15_131, 3073),
    "C26": (45_571, 12_296, 2292),
}
INTEGER_MEAN_SD = {
    "I1": (3.5024, 9.4291),
    "I2": (105.848, 391.458),
    "I3": (26.913, 397.973),
    "I4": (7.3227, 8.7932),
    "I5": (18538.99, 69394.60),
    "I6": (116.062, 382.566),
    "I7": (16.333, 66.050),
    "I8": (12.517, 16.689),
    "I9": (106.110, 220.283),
    "I10": (0.61753, 0.68405),
    "I11": (2.7328, 5.1991),
    "I12": (0.99104, 5.5977),
    "I13": (8.2175, 16.2119),
}


def test_full_scale_meets_the_published_tail_counts() -> None:
    for name, tail in TAILS.items():
        marginal = marginals.TOKENS[TOKEN_NAMES.index(name)]
        fitted = marginals.fit_tokens(marginal, 1.0)
        for at_least, published in zip((10, 100, 1000), tail, strict=True):
            expected = fitted.expected_distinct(45_840_617 - marginal.missing, at_least)
            assert 0.97 < expected / published < (1.2 if at_least == 10 else 1.03), (name, at_least)


def test_fitted_integers_have_the_published_moments() -> None:
    for marginal, (mean, sd) in zip(marginals.INTEGERS, INTEGER_MEAN_SD.values(), strict=True):
        fitted = marginals.fit_integer(marginal)
        assert fitted.moments() == pytest.approx(
            (mean, sd), rel=1e-4
        )  # the precision of the figures given here
        assert fitted.low[0] == marginal.low
        assert fitted.low[-1] + fitted.width[-1] - 1 == marginal.high


def test_moments_of_ranges_are_those_of_their_values() -> None:
    ranges = marginals.Ranges(np.array([-1, 0, 3]), np.array([1, 3, 2]), np.array([0.5, 0.3, 0.2]))
    values, mass = np.arange(-1, 5), np.array([0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    mean = mass @ values
    assert ranges.moments() == pytest.approx((mean, (mass @ (values - mean) ** 2) ** 0.5))


def test_alias_table_holds_the_masses() -> None:
    mass = np.random.default_rng(0).dirichlet(np.full(300, 0.1))
    alias, alias_from = marginals.alias_table(mass)
    first = alias_from / 2**32
    held = (first + np.bincount(alias.astype(np.int64), 1 - first, len(first))) / len(first)
    np.testing.assert_allclose(held, np.pad(mass, (0, len(first) - len(mass))), atol=1e-9)
