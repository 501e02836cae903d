"""Parse flags. Flags override the config file, which overrides the preset."""

import dataclasses
import difflib
import inspect
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar

import tyro

from dlrm_adahessian.commands.help import Layout, under_headings
from dlrm_adahessian.errors import UsageError

T = TypeVar("T")
SHORT = {"--lr": "--optim.dense.lr", "--rows-lr": "--optim.rows.lr"}
_MEANT = {
    "--learning-rate": "--lr",
    "--optim.lr": "--lr",
    "--embedding-lr": "--rows-lr",
    "--embedding-learning-rate": "--rows-lr",
    "--gpu": "--device",
}
"""Flags of other programs, and the flags that they mean here. Their spelling is too different for a closest match."""
_REQUIRED = re.compile(r"^ *((?:--[\w.-]+ )?[A-Z]+)(?:  | *$)", re.MULTILINE)
HELP = ("-h", "--help", "--help-all")
"""Flags that ask for help."""


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Replace the short flags --lr and --rows-lr by the names of their settings."""
    parts = [argument.partition("=") for argument in arguments]
    return [SHORT.get(flag, flag) + equals + value for flag, equals, value in parts]


def config_file(arguments: Sequence[str]) -> Path | None:
    """Return the path given with --config, or None."""
    named = value_of(arguments, "--config")
    return Path(named) if named else None


def model_name(arguments: Sequence[str]) -> str | None:
    """Return the architecture given with --model or --model.name, or None."""
    return value_of(arguments, "--model") or value_of(arguments, "--model.name")


def parsed(
    base: T | type[T],
    arguments: Sequence[str],
    *,
    prog: str,
    description: str | None = None,
    read: Sequence[str] = (),
    layout: Layout | None = None,
) -> T:
    """Parse flags into settings.

    Args:
        base: settings whose values are the defaults, or a class of settings.
        arguments: the flags.
        prog: the command as a user types it, for the usage line.
        description: text at the top of the help; default: the docstring of the class.
        read: flags that the caller has already read, because the defaults depend on them.
        layout: headings of the help. --help-all shows the advanced ones.

    Returns:
        The settings.

    Raises:
        UsageError: a flag is unknown, or its value is invalid.
    """
    for flag in read:
        arguments = without(arguments, flag)
    _help(base, arguments, prog, description, layout)
    _refuse_unknown(arguments, [*_flags(base), *read], layout)
    told = io.StringIO()  # not a terminal, so tyro prints neither boxes nor colors
    try:
        with redirect_stdout(told), redirect_stderr(told):
            return _tyro(base, arguments, prog, description)
    except SystemExit as leaving:  # tyro exits if a flag is invalid
        raise UsageError(f"{_sentence(told.getvalue())}. See --help.") from leaving


def _help(
    base: Any, arguments: Sequence[str], prog: str, description: str | None, layout: Layout | None
) -> None:
    """Print the help and exit, if the arguments ask for it."""
    asked = [flag for flag in arguments if flag in HELP]
    if not asked:
        return
    if layout is not None:
        everything = "--help-all" in asked
        more = "" if everything or not layout.advanced else "\n\n--help-all shows all flags."
        description = f"{description or inspect.getdoc(base)}{more}"
        base = under_headings(base, layout, everything=everything)
    _tyro(base, ["--help"], prog, description)


def _tyro(base: T | type[T], arguments: Sequence[str], prog: str, description: str | None) -> T:
    kind, default = (base, tyro.MISSING_NONPROP) if isinstance(base, type) else (type(base), base)
    only = (tyro.conf.AvoidSubcommands,)
    return tyro.cli(kind, default=default, args=arguments, prog=prog, description=description, config=only)


def value_of(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag that must be read before the others, or None."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            if place + 1 == len(arguments):
                raise UsageError(f"{flag} requires a value, but none was given.")
            return arguments[place + 1]
    return None


def without(arguments: Sequence[str], flag: str) -> list[str]:
    """Return the arguments without a flag and its value."""
    rest = [a for a in arguments if not a.startswith(f"{flag}=")]
    if flag in rest:
        place = rest.index(flag)
        del rest[place : place + 2]
    return rest


def _flags(base: Any, prefix: str = "--") -> Iterator[str]:
    """Yield all flags of some settings or of a settings class, including the --no- form of switches."""
    for field in dataclasses.fields(base):
        value, name = getattr(base, field.name, None), field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from _flags(value, f"{prefix}{name}.")
        elif isinstance(value, dict) and value:  # each key is a flag
            yield from (f"{prefix}{name}.{key}".replace("_", "-") for key in value)
        else:
            yield f"{prefix}{name}"
            if isinstance(value, bool):
                yield f"{prefix}no-{name}"


def _refuse_unknown(arguments: Sequence[str], known: Sequence[str], layout: Layout | None) -> None:
    for argument in arguments:
        flag = argument.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            meant = [name for name in (_MEANT.get(flag),) if name in known]
            near = [*meant, *difflib.get_close_matches(flag, known, 1)]
            lists = "--help-all" if layout and layout.advanced else "--help"
            end = f"Did you mean {near[0]}?" if near else f"See {lists} for all flags."
            raise UsageError(f"Unknown flag: {flag}. {end}")


def _sentence(told: str) -> str:
    """Return tyro's error as one line. In its output the error is between two horizontal rules, below a title."""
    parts = re.split(r"^ *-+ *$", told, flags=re.MULTILINE)
    if parts[1].lstrip().startswith("Missing from"):  # then each flag or argument, and below it its help
        return f"Required, but not given: {', '.join(_REQUIRED.findall(parts[1]))}"
    return " ".join(parts[1].split()).rstrip(".")
