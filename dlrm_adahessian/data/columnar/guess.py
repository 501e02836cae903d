"""Guess a schema from the contents of a file, with a comment on each column for the user who edits it.

Names and values decide. A column of 0 and 1 is the label. Increasing numbers or times named like a time are the time.
Numbers with many distinct values are dense. Text, and numbers with few values or an identifier's name, are tokens. Lists
and text with a separator are bags. Constant columns and columns whose values never repeat are left out.
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
_NUMBERED = re.compile(r"[Cc]\d+")  # names of anonymous categorical columns in Criteo and Avazu
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
_FEW, _MORE = 100, 1000  # most distinct integers that are read as tokens; _MORE if each occurs often
_OFTEN = 20  # samples with the same number, on average
_TEXT = ("string", "large_string")
_EXACT = 2**53  # larger integers are not distinct as floats, so they are identifiers
_ENOUGH = 100  # samples from which on all-different values are unlikely to be chance
_RATE = "# negative_rate = 0.1  # if the log keeps only this share of the rows without a click"

Role = Literal["label", "weight", "time", "dense", "tokens", "bags", "left out"]
_SINGLE: tuple[Role, ...] = ("label", "weight", "time")
_SEVERAL: tuple[Role, ...] = ("dense", "tokens", "bags")


@dataclass(frozen=True)
class Guess:
    """The guessed role of a column.

    Attributes:
        column: profile of the column.
        role: table of the schema.
        why: reason why the column is left out.
        settings: further keys of the schema table.
    """

    column: ColumnProfile
    role: Role
    why: str = ""
    settings: Mapping[str, str | int] = field(default_factory=dict[str, str | int])


def guess_roles(columns: Sequence[ColumnProfile]) -> list[Guess]:
    """Guess the roles of columns.

    Args:
        columns: profiles of the columns.

    Returns:
        A guess for each column, in order.

    Raises:
        DataError: no column can be the label, or none can be a feature.
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
            "No column of the file can be a feature: each is constant or never repeats a value. Write [[dense]] or "
            "[[tokens]] of a schema by hand."
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
        f"Found no label: none of the columns {', '.join(column.name for column in columns):.200} contains only 0 and 1. "
        "Add a label column to the file."
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
    """Return the first column whose values never fall and that has times, or numbers with the name of a time."""
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
    """Return why a model cannot learn from a column; empty if it can."""
    if column.holds == "other":
        return f"values of type {column.type} are not read"
    if column.holds == "times" and column.usual_length is None:
        again = "" if column.rising else "; sort the rows by it to use it as [time]"
        return f"times do not repeat{again}"
    if column.holds == "nothing" or (column.distinct == 1 and not column.missing):
        return "constant or empty"
    if column.all_different and column.holds != "numbers" and column.rows >= _ENOUGH:
        return "no value repeats"
    return ""


def _is_number(column: ColumnProfile) -> bool:
    """Return whether values are quantities. Text columns of parquet count as names, even if they hold digits."""
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
    """Return the schema of a file as TOML, for the user to edit.

    Args:
        profile: contents of the file.
        guesses: roles of its columns.

    Returns:
        TOML for `--schema`, with a comment on the contents before each column.
    """
    rows = profile.columns[0].rows
    lines = [
        f"# Guessed from the first {rows:,} rows of {printable_name(profile.name)}. Correct what is wrong; "
        "docs/own-data.md has all keys.",
        f"format = {_quoted(profile.format)}",
    ]
    if profile.header:
        lines.append(f"header = [{', '.join(map(_quoted, profile.header))}]  # the file has no header line")
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
        yield "# The rows are in time order: the last ones test a model trained on the first ones."
    else:
        yield "# The split follows the order of the file. No column shows whether that is time order."
    yield from ("[split]", 'by = "order"', "train = 0.8", "test = 0.1")


def _seen(column: ColumnProfile) -> str:
    more = column.distinct > MOST_DISTINCT
    return (
        f"{printable_name(column.name)}: {column.type}, {'over ' if more else ''}{column.distinct - more:,} distinct, "
        f"{column.missing / column.rows:.1%} missing, e.g. {printable_name(column.example)}"
    )


def _feature_names(guesses: Sequence[Guess]) -> dict[str, str]:
    """Return a valid, unique feature name for each column that a model reads."""
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
    """Return text as a TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
