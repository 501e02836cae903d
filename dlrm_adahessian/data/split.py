"""Split samples into consecutive training, test, and validation parts."""

from collections.abc import Sequence
from dataclasses import dataclass

from dlrm_adahessian.data.schema import SplitRule
from dlrm_adahessian.errors import DataError

DAYS = 7
MIN_ROWS = 2 * DAYS
"""Fewest samples that a split into days can divide into three nonempty parts."""
PARTS = ("train", "test", "val")
_WEEK = SplitRule()


@dataclass(frozen=True)
class Split:
    """The bounds of the parts.

    Attributes:
        test_from: index of the first test sample, after the training part.
        validation_from: index of the first validation sample.
        rows: number of samples.
    """

    test_from: int
    validation_from: int
    rows: int

    @property
    def days(self) -> tuple[int, ...]:
        """(8,) first sample of each day, and the end; see `days_of`."""
        return days_of(self.rows)

    @property
    def train(self) -> range:
        """Samples of the training part."""
        return range(self.test_from)

    @property
    def test(self) -> range:
        """Samples of the test part."""
        return range(self.test_from, self.validation_from)

    @property
    def val(self) -> range:
        """Samples of the validation part."""
        return range(self.validation_from, self.rows)

    def asdict(self) -> dict[str, list[int]]:
        """Return start and end of each part."""
        return {part: [getattr(self, part).start, getattr(self, part).stop] for part in PARTS}

    @classmethod
    def from_dict(cls, values: dict[str, list[int]]) -> "Split":
        """Read what `asdict` wrote."""
        return cls(values["test"][0], values["val"][0], values["val"][1])


def days_of(rows: int) -> tuple[int, ...]:
    """Return the first sample of each of 7 days, and the end. Earlier days have the remainder, one more sample each."""
    each, more = divmod(rows, DAYS)
    return tuple(day * each + min(day, more) for day in range(DAYS + 1))


def split_rows(rows: int, rule: SplitRule = _WEEK, counts: Sequence[int] | None = None) -> Split:
    """Split samples into parts.

    The default is the split of Criteo's Kaggle data by facebookresearch/dlrm: of seven equal days in time order, the first
    six train, and the last one tests and validates, half each.

    Args:
        rows: number of samples.
        rule: split rule.
        counts: number of samples of each part, unless the rule is by order.

    Returns:
        The parts.

    Raises:
        DataError: a part would be empty.
    """
    if rule.by != "order" and counts is not None:
        train, test, validation = counts
        half = test // 2 if rule.by == "files" and not rule.validation_files else 0
        found = Split(train, train + test - half, train + test + validation)
    elif rule.train is None and rule.test is None:
        if rows < MIN_ROWS:
            raise DataError(
                f"Found {rows} valid samples; at least {MIN_ROWS} are required. Provide more data."
            )
        days = days_of(rows)
        found = Split(days[-2], rows - (rows - days[-2]) // 2, rows)
    else:
        train, test, _ = shares(rule)
        found = Split(round(rows * train), round(rows * (train + test)), rows)
    if empty := [part for part in PARTS if not getattr(found, part)]:
        raise DataError(
            f"Found {rows} valid samples, but none {'are' if len(empty) > 1 else 'is'} left for {' and '.join(empty)}. "
            "Change [split] of the schema, or provide more data."
        )
    return found


def shares(rule: SplitRule) -> tuple[float, float, float]:
    """Return the shares of training, test, and validation samples in a split by order."""
    train = rule.train or (DAYS - 1) / DAYS * (1 - (rule.test or 0))
    test = rule.test or (1 - train) / 2
    return train, test, 1 - train - test
