"""Which rows train, which validate, which test: as facebookresearch/dlrm cuts the Kaggle rows, by their order in time."""

from dataclasses import dataclass

DAYS = 7
MIN_ROWS = 2 * DAYS
"""Fewest rows of which each part gets one."""


@dataclass(frozen=True)
class Split:
    """Where the parts begin: 7 equal days, 6 train, half test, half val.

    Attributes:
        days: (8,) first row of each day, and the number of rows.
        validation: first row of the validation part; the test part begins with the last day.
    """

    days: tuple[int, ...]
    validation: int

    @property
    def train(self) -> range:
        """Rows of the first six days."""
        return range(self.days[DAYS - 1])

    @property
    def test(self) -> range:
        """First half of the last day."""
        return range(self.days[DAYS - 1], self.validation)

    @property
    def val(self) -> range:
        """Second half of the last day."""
        return range(self.validation, self.days[DAYS])


def split_rows(rows: int) -> Split:
    """Cut `rows` rows in time order; where they don't divide evenly, earlier parts are longer by one."""
    each, more = divmod(rows, DAYS)
    days = [day * each + min(day, more) for day in range(DAYS + 1)]
    return Split(tuple(days), days[DAYS] - (days[DAYS] - days[DAYS - 1]) // 2)
