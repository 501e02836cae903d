"""What a search may choose a hyper-parameter from. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Range:
    """Real numbers from `low` to `high`, drawn evenly on a logarithmic scale."""

    low: float
    high: float

    @property
    def decades(self) -> float:
        """Width on the logarithmic scale."""
        return math.log10(self.high / self.low)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[float | str, ...]

    def __contains__(self, value: float | str) -> bool:
        return value in self.values


Tuned = Mapping[str, Range | Choice]
"""By the name of a hyper-parameter. One that a configuration has at 0, which turns it off, is not drawn."""


def rate(centre: float) -> Range:
    """Return the range of a learning rate: three decades for every optimizer, so that none is searched more narrowly."""
    return Range(centre / 10**1.5, centre * 10**1.5)
