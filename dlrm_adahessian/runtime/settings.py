"""Declare classes of settings, read them from TOML, merge them, and explain invalid values. Imports no torch."""

import dataclasses
import difflib
import functools
import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources.abc import Traversable
from typing import Any, TypeVar, dataclass_transform, get_args, get_type_hints

import pydantic
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from dlrm_adahessian.errors import NoInputError, UsageError

T = TypeVar("T")
_MAX_TOML = 1 << 20  # bytes
_BITS = 63


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field, dataclasses.field))
def settings(kind: type[T]) -> type[T]:
    """Declare a class of settings: frozen, keyword-only, and validated by pydantic, without unknown keys.

    Numbers must be finite, and integers must fit into 63 bits and a sign, as in torch, NumPy, and files.

    Args:
        kind: the class.

    Returns:
        The class as a pydantic dataclass. Invalid values raise a `UsageError`, as in `validated`.
    """
    kind._whole = model_validator(mode="after")(_require_64_bits)  # pyright: ignore[reportAttributeAccessIssue]
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    made: Any = dataclass(frozen=True, kw_only=True, config=config)(kind)
    check = made.__init__

    @functools.wraps(check)
    def init(self: T, **values: Any) -> None:
        try:
            check(self, **values)
        except pydantic.ValidationError as error:
            raise UsageError(_explained(made, error)) from error

    made.__init__ = init
    return made


def _require_64_bits(self: T) -> T:
    for name, value in vars(self).items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and number.bit_length() > _BITS:
                raise ValueError(
                    f"{name} must be below 2**{_BITS}, got a number with {number.bit_length()} bits"
                )
    return self


def validated(kind: type[T], values: Mapping[str, Any]) -> T:
    """Validate settings.

    Args:
        kind: a class declared with `settings`.
        values: nested dicts; missing keys have their defaults.

    Returns:
        The settings.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or is out of range.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise UsageError(_explained(kind, error)) from error


def read_toml(path: Traversable) -> dict[str, Any]:
    """Read a configuration file. Raises an error if it is missing, too large, or not valid TOML."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOML + 1)
    except OSError as error:
        raise NoInputError(f"Cannot read {path}: {error.strerror}. Pass a readable TOML file.") from error
    if len(text) > _MAX_TOML:
        raise UsageError(
            f"Configuration file too large: {path} has more than {_MAX_TOML} bytes. Remove everything but settings."
        )
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested dicts; `above` takes precedence. A dict with a different `name` replaces the one below entirely."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each setting that differs. For dicts with different `name`, yield only the name.

    Args:
        old: nested dicts.
        new: nested dicts.
        prefix: prefix of all names.

    Yields:
        Dotted name, old value, and new value; None for a missing value.
    """
    for key in dict.fromkeys((*old, *new)):
        ours, theirs = old.get(key), new.get(key)
        if not isinstance(ours, dict) or not isinstance(theirs, dict):
            if ours != theirs:
                yield f"{prefix}{key}", ours, theirs
        elif ours.get("name") == theirs.get("name"):
            yield from differences(ours, theirs, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}.name", ours.get("name"), theirs.get("name")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `name old -> new` for each of the `differences` of nested dicts."""
    return [f"{name} {ours} -> {theirs}" for name, ours, theirs in differences(old, new)]


def nearest(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name: the most similar known name, or all known names."""
    found = difflib.get_close_matches(name, known, 1, 0.4)
    return f". Did you mean {found[0]!r}?" if found else f". Known names: {', '.join(known)}."


def _explained(kind: type, error: pydantic.ValidationError) -> str:
    """Return one line per invalid value."""
    known = sorted({*_names(kind)})
    return "\n".join(_explain(problem, known) for problem in error.errors())


def _explain(problem: Any, known: list[str]) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "unexpected_keyword_argument":
        if path[-1] in known:
            return f"Unknown setting {key!r}: {path[-1]!r} belongs to other parts. Remove it."
        return f"Unknown setting {key!r}{nearest(path[-1], known)}"
    if problem["type"] == "union_tag_invalid":
        tags = problem["ctx"]
        return f"{key}.name must be one of {tags['expected_tags'].replace(chr(39), '')}, got {tags['tag']!r}"
    if problem["type"] == "value_error" or not key:
        return problem["msg"].removeprefix("Value error, ")
    if problem["msg"].startswith("Input should "):
        return f"{key} must {problem['msg'].removeprefix('Input should ')}, got {problem['input']!r}"
    return f"{key}: {problem['msg']}, got {problem['input']!r}"


def _names(kind: Any) -> Iterator[str]:
    """Yield the names of all settings of a class and its nested classes."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            yield field.name
            yield from _names(hints[field.name])
    for part in get_args(kind):
        yield from _names(part)
