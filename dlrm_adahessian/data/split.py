"""Which rows train, which test, which validate; the parts follow one another in the order of the rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from dlrm_adahessian.data.schema import SplitRule
from dlrm_adahessian.errors import DataError

DAYS = 7
MIN_ROWS = 2 * DAYS
"""Fewest rows of which each part gets one where a week is cut."""
PARTS = ("train", "test", "val")
_WEEK = SplitRule()


@dataclass(frozen=True)
class Split:
    """Where the parts begin.

    Attributes:
        test_from: first row of the test part, which follows the training part.
        validation_from: first row of the validation part.
        rows: number of rows.
    """

    test_from: int
    validation_from: int
    rows: int

    @property
    def days(self) -> tuple[int, ...]:
        """(8,) first row of each day, as `days_of` cuts them."""
        return days_of(self.rows)

    @property
    def train(self) -> range:
        """Rows of the training part."""
        return range(self.test_from)

    @property
    def test(self) -> range:
        """Rows of the test part."""
        return range(self.test_from, self.validation_from)

    @property
    def val(self) -> range:
        """Rows of the validation part."""
        return range(self.validation_from, self.rows)

    def asdict(self) -> dict[str, list[int]]:
        """Return first row and end of each part."""
        return {part: [getattr(self, part).start, getattr(self, part).stop] for part in PARTS}

    @classmethod
    def from_dict(cls, values: dict[str, list[int]]) -> "Split":
        """Read what `asdict` wrote."""
        return cls(values["test"][0], values["val"][0], values["val"][1])


def days_of(rows: int) -> tuple[int, ...]:
    """Return the first row of each of 7 equal days, earlier ones longer by one where they don't divide; and the end."""
    each, more = divmod(rows, DAYS)
    return tuple(day * each + min(day, more) for day in range(DAYS + 1))


def split_rows(rows: int, rule: SplitRule = _WEEK, counts: Sequence[int] | None = None) -> Split:
    """Cut rows into parts.

    The default is the cut of Criteo's Kaggle rows by facebookresearch/dlrm: of seven equal days in time order six train,
    and of the last one half tests and half validates.

    Args:
        rows: how many there are.
        rule: how they are cut.
        counts: rows of the three parts, where the rule is not by order.

    Returns:
        The parts.

    Raises:
        DataError: a part would have no row.
    """
    if rule.by != "order" and counts is not None:
        train, test, validation = counts
        half = test // 2 if rule.by == "files" and not rule.validation_files else 0
        found = Split(train, train + test - half, train + test + validation)
    elif rule.train is None and rule.test is None:
        if rows < MIN_ROWS:
            raise DataError(f"{MIN_ROWS} good rows at least are needed, found {rows}; give more rows")
        days = days_of(rows)
        found = Split(days[-2], rows - (rows - days[-2]) // 2, rows)
    else:
        train, test, _ = shares(rule)
        found = Split(round(rows * train), round(rows * (train + test)), rows)
    if empty := [part for part in PARTS if not getattr(found, part)]:
        raise DataError(
            f"each part needs rows, and of {rows} good rows none {'are' if len(empty) > 1 else 'is'} left for "
            f"{' and '.join(empty)}; change [split] of the schema, or give more rows"
        )
    return found


def shares(rule: SplitRule) -> tuple[float, float, float]:
    """Return the shares of the rows that train, test and validate, of a split by order."""
    train = rule.train or (DAYS - 1) / DAYS * (1 - (rule.test or 0))
    test = rule.test or (1 - train) / 2
    return train, test, 1 - train - test
