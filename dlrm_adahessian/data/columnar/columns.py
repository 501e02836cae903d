"""Convert one pyarrow column to the arrays of a `ColumnBlock`, and find the values that break a rule."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dlrm_adahessian.data.columnar.hashing import as_text, hashed_with_texts, is_text, pc
from dlrm_adahessian.data.rows import NO_LABEL, Bags, TokenTexts, offsets_of
from dlrm_adahessian.data.schema import BagColumn, TokenColumn

_MISSING = ["", "NA", "NaN", "nan", "null", "NULL"]
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_LARGEST = float(np.finfo(np.float32).max)  # models read float32

_TIME = "must be a number or an ISO 8601 time"
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


@dataclass(frozen=True)
class Fault:
    """Values of a column that break a rule.

    Attributes:
        rows: (N,) bool, True for the values that break the rule.
        rule: what the values must be.
    """

    rows: npt.NDArray[np.bool_]
    rule: str


class WrongTypeError(Exception):
    """A column has a type that cannot be read; the message says which types can."""


def as_numbers(values: Any) -> tuple[npt.NDArray[np.float64], Fault]:
    """Return numbers (N,) float64, NaN if missing, and the values that are not numbers or exceed float32."""
    values = _decoded(values)
    kind = values.type
    bad = np.zeros(len(values), np.bool_)
    if is_text(kind):
        values, bad = _parsed(pc.utf8_trim_whitespace(values))
    elif pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    elif not any(is_number(kind) for is_number in _NUMBERS):
        raise WrongTypeError(f"must contain numbers, but has type {kind}")
    found = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float64)
    bad = bad | (np.abs(found) > _LARGEST)
    return np.where(bad, np.nan, found), Fault(bad, "must be empty or a finite float32 number")


def _parsed(text: Any) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Parse trimmed text to numbers, null if missing; also return which values are not numbers, (N,) bool."""
    text = pc.if_else(pc.is_in(text, pa.array(_MISSING, text.type)), None, text)
    with suppress(
        pa.ArrowInvalid
    ):  # fast path: usually all parse, and matching each takes longer than the rest
        numbers = text.cast(pa.float64())
        if pc.all(pc.is_finite(numbers), min_count=0).as_py():  # "infinity" and "-nan" parse too
            return numbers, np.zeros(len(text), np.bool_)
    fits = pc.match_substring_regex(text, _NUMBER).fill_null(True)
    numbers = pc.if_else(fits, text, None).cast(pa.float64())
    return numbers, ~fits.to_numpy(zero_copy_only=False)


def as_labels(values: Any, *, required: bool) -> tuple[npt.NDArray[np.int8], Fault]:
    """Return labels (N,), `NO_LABEL` if missing, and the bad ones: neither 0 nor 1, or missing although required."""
    found, fault = as_numbers(values)
    missing = np.isnan(found) & ~fault.rows
    bad = fault.rows | ~((found == 0) | (found == 1) | missing)
    rule = "must be 0 or 1"
    if required:
        bad = bad | missing
    return np.where(missing | bad, NO_LABEL, found).astype(np.int8), Fault(bad, rule)


def as_weights(values: Any) -> tuple[npt.NDArray[np.float32], Fault]:
    """Return weights (N,), and those that are missing, negative, or not numbers."""
    found, fault = as_numbers(values)
    bad = fault.rows | ~(found >= 0)
    return np.where(bad, 0, found).astype(np.float32), Fault(
        bad, "must be a finite float32 number of at least 0"
    )


def as_tokens(
    values: Any, column: TokenColumn
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_], TokenTexts]:
    """Return tokens (N,), 0 if missing; which of them are missing, (N,) bool; and their texts."""
    return hashed_with_texts(_text(values, column))


def as_bags(values: Any, column: BagColumn) -> tuple[Bags, TokenTexts]:
    """Return the bag of each sample and the texts; a missing bag is empty, and missing values are dropped."""
    kind = values.type
    if any(is_list(kind) for is_list in _LISTS):
        lists = values
    elif column.separator is None:
        raise WrongTypeError(
            f'must contain lists, but has type {kind}; set a separator, for example separator = "|"'
        )
    else:
        lists = pc.split_pattern(_plain(_decoded(values)), column.separator)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    found, absent, texts = hashed_with_texts(_text(pc.list_flatten(lists), column))
    row = np.repeat(np.arange(len(lengths)), lengths)[~absent]
    kept = np.bincount(row, minlength=len(lengths))
    found = found[~absent]
    if column.max_length is not None:
        place = np.arange(len(found)) - np.repeat(offsets_of(kept)[:-1], kept)
        found = found[place < column.max_length]
        kept = np.minimum(kept, column.max_length)
    return Bags(values=found, offsets=offsets_of(kept)), texts


def as_times(values: Any) -> tuple[npt.NDArray[Any], Fault]:
    """Return comparable times (N,), and those that are missing or not times.

    Args:
        values: timestamps, dates, numbers, or text. Text is read as ISO 8601 or as numbers, whichever most values are.

    Returns:
        int64 nanoseconds since 1970 for timestamps, dates, and ISO 8601 (UTC if they have a zone); float64 for numbers.
    """
    values = _decoded(values)
    kind = values.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        found, fault = as_numbers(values)
        if not is_text(kind) or 2 * np.count_nonzero(fault.rows) < len(found):
            return found, Fault(np.isnan(found), _TIME)
    instants = _instants(values)
    return instants.fill_null(0).to_numpy(), Fault(instants.is_null().to_numpy(zero_copy_only=False), _TIME)


def _instants(values: Any) -> Any:
    """Return nanoseconds, null for values that are not times. If a cast fails, retry on each half."""
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", "UTC")):
        with suppress(pa.ArrowInvalid):
            return values.cast(kind).cast(pa.int64())
    if len(values) == 1:
        return pa.nulls(1, pa.int64())
    middle = len(values) // 2
    return pa.concat_arrays([_instants(values[:middle]), _instants(values[middle:])])


def _plain(values: Any) -> Any:
    try:
        return as_text(values)
    except pa.ArrowInvalid as error:
        raise WrongTypeError(f"must contain text or integers: {error}") from error
    except pa.ArrowNotImplementedError as error:
        raise WrongTypeError(f"must contain text or integers, but has type {values.type}") from error


def _text(values: Any, column: TokenColumn) -> Any:
    text = _plain(values)
    if column.characters is None:
        return text
    first, stop = column.characters
    return _on_distinct(text, partial(pc.utf8_slice_codeunits, start=first, stop=stop))


def _on_distinct(text: Any, change: Callable[[Any], Any]) -> Any:
    if pa.types.is_dictionary(text.type):
        return pa.DictionaryArray.from_arrays(text.indices, change(text.dictionary))
    return change(text)


def _decoded(values: Any) -> Any:
    """Return values without dictionary encoding, and string views as strings, which all pyarrow functions accept."""
    values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
    return values.cast(pa.string()) if pa.types.is_string_view(values.type) else values
