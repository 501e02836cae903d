"""Profile the columns of a file in one pass over its first rows. Memory depends only on the number of columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dlrm_adahessian.data.columnar.columns import WrongTypeError, as_numbers, as_times
from dlrm_adahessian.data.columnar.hashing import as_text, hashed, is_text, pc

MOST_DISTINCT = 1 << 20
"""Largest number of distinct values that is counted exactly."""
SEPARATORS = ("|", ";", ",", " ")
"""Possible separators of the values in a text, most likely first."""

_LONGEST = 10_000  # values of a bag; longer bags count as this long
_USUAL = 0.99  # share of the bags that the suggested max_length keeps whole
_SHOWN = 40  # characters of an example that are shown

Holds = Literal["nothing", "whole", "numbers", "times", "text", "other"]
"""Kind of all values of a column. "whole" is integers only, and "other" is a type that cannot be read."""


_TOLD: dict[Holds, str] = {"whole": "text, whole numbers", "numbers": "text, numbers", "times": "text, times"}


@dataclass(frozen=True)
class ColumnProfile:
    """Contents of a column.

    Attributes:
        name: name in the file.
        type: pyarrow's name of the type; for delimited text "text" and the kind of its values.
        holds: kind of the values, or of the items of lists and of text with a separator.
        rows: number of rows read.
        missing: number of rows without a value: null, empty, NaN, or an empty list.
        distinct: number of distinct values or items; `MOST_DISTINCT` + 1 if there are more.
        all_different: no value occurs twice.
        low: smallest number, at most 0.
        high: largest number, at least 0.
        rising: numbers or times never decrease, and none is missing.
        separator: separator that occurs in most values of a text.
        usual_length: length that 99% of the bags do not exceed; None if the column has single values.
        example: first value.
    """

    name: str
    type: str
    holds: Holds
    rows: int
    missing: int
    distinct: int
    all_different: bool
    low: float
    high: float
    rising: bool
    separator: str | None
    usual_length: int | None
    example: str


def profile_columns(batches: Iterator[Any], *, rows: int, plain_text: bool) -> list[ColumnProfile]:
    """Profile the columns of the first rows.

    Args:
        batches: pyarrow batches with equal columns.
        rows: number of rows after which to stop.
        plain_text: the file is delimited text, so all columns are text.

    Returns:
        Profiles of the columns, in order; empty if there are no rows.
    """
    sketches: dict[str, _Sketch] = {}
    for batch in batches:
        batch = batch.slice(0, rows)
        rows -= len(batch)
        for field, values in zip(batch.schema, batch.columns, strict=True):
            sketches.setdefault(field.name, _Sketch(field.name, plain_text=plain_text)).add(values)
        if not rows:
            break
    return [sketch.profile() for sketch in sketches.values()]


class _Sketch:
    """Running profile of a column."""

    def __init__(self, name: str, *, plain_text: bool) -> None:
        self._name = name
        self._plain_text = plain_text
        self._type = ""
        self._example = ""
        self._rows = self._missing = 0
        self._separator: str | None = None
        self._lengths: npt.NDArray[np.int64] | None = None  # number of bags with 0, 1, 2, ... items
        self._distinct = _Distinct()
        self._range = _Range()
        self._readable = True

    def add(self, values: Any) -> None:
        """Add the next rows."""
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        if not self._rows:
            self._type = str(values.type)
        self._rows += len(values)
        try:
            self._add(values)
        except (WrongTypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
            self._readable = False

    def _add(self, values: Any) -> None:
        lists, missing = self._as_lists(values), None
        if lists is not None:
            lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
            self._add_lengths(lengths)
            missing = lengths == 0
        items = values if lists is None else pc.list_flatten(lists)
        seen = _seen(items)
        missing = seen.missing if missing is None else missing
        self._missing += int(missing.sum())
        if not self._example and not missing.all():
            self._example = str(values[int(np.argmin(missing))].as_py())
        self._distinct.add(items.filter(pa.array(~seen.missing)))
        self._range.add(seen)

    def _as_lists(self, values: Any) -> Any:
        """Return bags as lists; None if each row has one value. The first batch decides whether text is a bag."""
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            return values
        if self._rows == len(values):
            self._separator = _separator(values)
        if self._separator is None:
            return None
        return pc.split_pattern(pc.if_else(pc.equal(values, ""), None, values), self._separator)

    def _add_lengths(self, lengths: npt.NDArray[np.int64]) -> None:
        found = np.bincount(np.minimum(lengths, _LONGEST), minlength=_LONGEST + 1)
        self._lengths = found if self._lengths is None else self._lengths + found

    def _usual_length(self) -> int | None:
        if self._lengths is None:
            return None
        return max(1, int(np.searchsorted(np.cumsum(self._lengths), _USUAL * self._rows)))

    def profile(self) -> ColumnProfile:
        """Return the profile of the rows so far."""
        single = self._lengths is None
        holds = self._range.holds if self._readable else "other"
        return ColumnProfile(
            name=self._name,
            type=_TOLD.get(holds, "text") if self._plain_text else self._type,
            holds=holds,
            rows=self._rows,
            missing=self._missing,
            distinct=self._distinct.count,
            all_different=single and self._distinct.all_different,
            low=self._range.low,
            high=self._range.high,
            rising=single and self._range.rising and not self._missing,
            separator=self._separator,
            usual_length=self._usual_length(),
            example=self._example if len(self._example) <= _SHOWN else f"{self._example[:_SHOWN]}...",
        )


@dataclass(frozen=True)
class _Seen:
    """Single values, or items of bags.

    Attributes:
        holds: kind of the values.
        missing: (N,) bool.
        numbers: (N,) numbers, or the times that are not missing; None for text.
    """

    holds: Holds
    missing: npt.NDArray[np.bool_]
    numbers: npt.NDArray[Any] | None


def _seen(values: Any) -> _Seen:
    kind = values.type
    if not pa.types.is_temporal(kind):
        found, fault = as_numbers(values)
        if not is_text(kind) or not fault.rows.any():
            missing = np.isnan(found) & ~fault.rows
            whole = (found[~missing] == np.rint(found[~missing])).all()
            return _Seen("nothing" if missing.all() else "whole" if whole else "numbers", missing, found)
    missing = (pc.equal(values, "").fill_null(True) if is_text(kind) else values.is_null()).to_numpy(
        zero_copy_only=False
    )
    if missing.all():
        return _Seen("nothing", missing, None)
    present = values.filter(pa.array(~missing))
    try:
        # Most text fails at the first value. Looking for times in a whole column of text takes seconds.
        if as_times(present[:1])[1].rows.any():
            return _Seen("text", missing, None)
        found, fault = as_times(present)
    except WrongTypeError:
        return _Seen("text", missing, None)
    return _Seen("text", missing, None) if fault.rows.any() else _Seen("times", missing, found)


class _Distinct:
    """Counts distinct values by their hashes, up to `MOST_DISTINCT`."""

    def __init__(self) -> None:
        self.all_different = True
        self._hashes = np.empty(0, np.uint64)
        self._values = 0

    @property
    def count(self) -> int:
        return min(len(self._hashes), MOST_DISTINCT + 1)

    def add(self, values: Any) -> None:
        """Add values, none of them missing."""
        if self.count > MOST_DISTINCT:
            return
        self._values += len(values)
        self._hashes = np.union1d(self._hashes, _hashes(pc.unique(values)))
        self.all_different = self._values == len(self._hashes)


class _Range:
    """Smallest and largest number, whether numbers or times never decrease, and the kind of all values."""

    def __init__(self) -> None:
        self.low = self.high = 0.0
        self.rising = True
        self.holds: Holds = "nothing"
        self._latest: Any = None

    def add(self, seen: _Seen) -> None:
        if seen.holds == "nothing":
            return
        kinds = {self.holds, seen.holds} - {"nothing"}
        if len(kinds) == 1:
            self.holds = seen.holds
        else:
            self.holds = "numbers" if kinds == {"whole", "numbers"} else "text"
        if seen.numbers is None:
            return
        if seen.holds != "times":
            ends = [np.nanmin(seen.numbers), np.nanmax(seen.numbers)]
            self.low, self.high = min(ends[0], self.low), max(ends[1], self.high)
        before = seen.numbers[0] if self._latest is None else self._latest
        self.rising = self.rising and bool((seen.numbers >= np.append(before, seen.numbers[:-1])).all())
        self._latest = seen.numbers[-1]


def _separator(values: Any) -> str | None:
    """Return the separator that occurs in most texts; None for numbers and times."""
    if not is_text(values.type) or (seen := _seen(values)).holds != "text":
        return None
    present = int((~seen.missing).sum())

    def occurs(separator: str) -> bool:
        return 2 * pc.sum(pc.match_substring(values, separator)).as_py() > present

    return next(filter(occurs, SEPARATORS), None)


def _hashes(values: Any) -> npt.NDArray[np.uint64]:
    kind = values.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        return (numbers + 0.0).view(np.uint64)  # -0.0 equals 0.0
    if pa.types.is_temporal(kind):
        return values.cast(pa.timestamp("ns")).cast(pa.int64()).to_numpy().view(np.uint64)
    return hashed(as_text(values))[0]
