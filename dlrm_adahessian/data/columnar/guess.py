"""A schema to edit, guessed from what the columns of a file hold; it says of each column what was seen.

Names and values decide: a column of 0 and 1 is the label, rising numbers or times named like a time are the time, numbers
with many distinct values are dense, text and numbers with few or that are named like identifiers are tokens, lists and
text with a separator are bags. A constant says nothing, and a value that does not come again has nothing to learn from.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dlrm_adahessian.data.columnar.own_file import FileProfile
from dlrm_adahessian.data.columnar.profile import MOST_DISTINCT, ColumnProfile
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runtime.terminal import printable_name

_LABELS = ("label", "click", "clicked", "target", "y")
_WEIGHTS = ("weight", "weights", "sample_weight", "w")
_TIMES = {"time", "timestamp", "ts", "hour", "date", "datetime", "day"}
_IDENTIFIERS = {"id", "ids", "uid", "code", "zip", "key", "hash", "user", "item"}
_NUMBERED = re.compile(r"[Cc]\d+")  # categorical columns without a name, as Criteo and Avazu call theirs
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_FEW, _MORE = 100, 1000  # distinct whole numbers that are read as tokens; the latter where each comes often
_OFTEN = 20  # rows with the same number, on average
_TEXT = ("string", "large_string")
_EXACT = 2**53  # whole numbers above are no longer distinct as floats, so they are identifiers
_ENOUGH = 100  # rows in which different values mean more than chance
_RATE = "# negative_rate = 0.1  # if the log keeps only this share of the rows without a click"

Role = Literal["label", "weight", "time", "dense", "tokens", "bags", "left out"]
_SINGLE: tuple[Role, ...] = ("label", "weight", "time")
_SEVERAL: tuple[Role, ...] = ("dense", "tokens", "bags")


@dataclass(frozen=True)
class Guess:
    """What a column may be.

    Attributes:
        column: what was seen of it.
        role: the table of the schema.
        why: it is left out.
        settings: further keys of the table.
    """

    column: ColumnProfile
    role: Role
    why: str = ""
    settings: Mapping[str, str | int] = field(default_factory=dict[str, str | int])


def guess_roles(columns: Sequence[ColumnProfile]) -> list[Guess]:
    """Guess what columns are.

    Args:
        columns: what they hold.

    Returns:
        A guess for each, in their order.

    Raises:
        DataError: none can be the label, or none is left for a model to read.
    """
    special: dict[str, Role] = {_label(columns).name: "label"}
    if (weight := _weight(columns)) is not None:
        special.setdefault(weight.name, "weight")
    if (time := _time(columns)) is not None:
        special.setdefault(time.name, "time")
    guesses = [
        Guess(column, special[column.name]) if column.name in special else _feature(column)
        for column in columns
    ]
    if not any(guess.role in _SEVERAL for guess in guesses):
        raise DataError(
            "a model reads at least one column, and none of the file changes and comes again; write [[dense]] or "
            "[[tokens]] of a schema by hand"
        )
    return guesses


def _label(columns: Sequence[ColumnProfile]) -> ColumnProfile:
    binary = [
        column
        for column in columns
        if column.holds == "whole" and column.usual_length is None and column.low == 0 and column.high <= 1
    ]
    for name in _LABELS:
        if named := next((column for column in binary if column.name.lower() == name), None):
            return named
    if first := next((column for column in binary if column.distinct == 2), None):
        return first
    raise DataError(
        f"a log has a column of clicks, and none of {', '.join(column.name for column in columns):.200} holds 0 and 1 "
        "alone; add one to the file"
    )


def _weight(columns: Sequence[ColumnProfile]) -> ColumnProfile | None:
    return next(
        (
            column
            for column in columns
            if column.name.lower() in _WEIGHTS
            and column.holds in ("whole", "numbers")
            and (column.low >= 0 < column.high)
            and not column.missing
        ),
        None,
    )


def _time(columns: Sequence[ColumnProfile]) -> ColumnProfile | None:
    """Return the first column whose values rise and which is of a time, or is called one."""
    return next(
        (
            column
            for column in columns
            if column.rising
            and column.distinct > 1
            and (
                column.holds == "times"
                or (column.holds in ("whole", "numbers") and bool(_words(column.name) & _TIMES))
            )
        ),
        None,
    )


def _feature(column: ColumnProfile) -> Guess:
    if why := _useless(column):
        return Guess(column, "left out", why)
    if column.usual_length is not None:
        separator = {} if column.separator is None else {"separator": column.separator}
        return Guess(column, "bags", settings={**separator, "max_length": column.usual_length})
    if _is_number(column):
        return Guess(column, "dense", settings={"transform": "standardize"} if column.low < 0 else {})
    return Guess(column, "tokens")


def _useless(column: ColumnProfile) -> str:
    """Return why a model cannot learn from a column; nothing if it can."""
    if column.holds == "other":
        return f"values of type {column.type} are not read"
    if column.holds == "times" and column.usual_length is None:
        again = "" if column.rising else "; sort the rows by it to name it in [time]"
        return f"times do not come again{again}"
    if column.holds == "nothing" or (column.distinct == 1 and not column.missing):
        return "it has one value, or none"
    if column.all_different and column.holds != "numbers" and column.rows >= _ENOUGH:
        return "no value comes twice"
    return ""


def _is_number(column: ColumnProfile) -> bool:
    """Whether the size of a value says something; text of parquet is taken for names, even where these are digits."""
    if column.holds == "numbers" or column.type.startswith("decimal"):
        return True
    if column.holds != "whole" or column.type in _TEXT or _named_as_identifier(column):
        return False
    few = max(_FEW, min(_MORE, column.rows // _OFTEN))
    return column.distinct > few and max(column.high, -column.low) < _EXACT


def _named_as_identifier(column: ColumnProfile) -> bool:
    return bool(_words(column.name) & _IDENTIFIERS or _NUMBERED.fullmatch(column.name))


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)}


def schema_text(profile: FileProfile, guesses: Sequence[Guess]) -> str:
    """Write the schema of a file, to be edited.

    Args:
        profile: what was seen.
        guesses: what its columns may be.

    Returns:
        TOML that `--schema` takes, with a comment of what was seen before each column.
    """
    rows = profile.columns[0].rows
    lines = [
        f"# Guessed from the first {rows:,} rows of {printable_name(profile.name)}. Correct what is wrong; "
        "docs/own-data.md has all keys.",
        f"format = {_quoted(profile.format)}",
    ]
    if profile.header:
        lines.append(
            f"header = [{', '.join(map(_quoted, profile.header))}]  # the first line names no columns"
        )
    names = _feature_names(guesses)
    for role in (*_SINGLE, *_SEVERAL):
        for guess in guesses:
            if guess.role == role:
                lines += _table(guess, names.get(guess.column.name))
    lines += ["", *_split(guesses)]
    if left_out := [guess for guess in guesses if guess.role == "left out"]:
        lines += ["", "# Left out:"]
        lines += [f"# {_seen(guess.column)}: {guess.why}" for guess in left_out]
    return "\n".join(lines) + "\n"


def _table(guess: Guess, name: str | None) -> Iterator[str]:
    yield ""
    yield f"# {_seen(guess.column)}"
    yield f"[[{guess.role}]]" if guess.role in _SEVERAL else f"[{guess.role}]"
    yield f"column = {_quoted(guess.column.name)}"
    if name not in (None, guess.column.name):
        yield f"name = {_quoted(name or '')}"
    for key, value in guess.settings.items():
        yield f"{key} = {_quoted(value) if isinstance(value, str) else value}"
    if guess.role == "label":
        yield _RATE


def _split(guesses: Sequence[Guess]) -> Iterator[str]:
    if any(guess.role == "time" for guess in guesses):
        yield "# The rows are in the order of time, so that the last ones test what was learned from the first ones."
    else:
        yield "# Rows train and test in the order of the file; no column says whether that is the order of time."
    yield from ("[split]", 'by = "order"', "train = 0.8", "test = 0.1")


def _seen(column: ColumnProfile) -> str:
    more = column.distinct > MOST_DISTINCT
    return (
        f"{printable_name(column.name)}: {column.type}, {'over ' if more else ''}{column.distinct - more:,} distinct, "
        f"{column.missing / column.rows:.1%} missing, e.g. {printable_name(column.example)}"
    )


def _feature_names(guesses: Sequence[Guess]) -> dict[str, str]:
    """Return a legal name of each column that a model reads, no two the same."""
    found: dict[str, str] = {}
    for guess in guesses:
        if guess.role in _SEVERAL:
            legal = re.sub(r"[^\w-]+", "_", guess.column.name).strip("_") or "column"
            number, name = 1, legal
            while name in found.values():
                number += 1
                name = f"{legal}_{number}"
            found[guess.column.name] = name
    return found


def _quoted(text: str) -> str:
    """Return a string of TOML."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
