"""Flags that win over a file, which wins over a preset."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from dlrm_adahessian.errors import UsageError

T = TypeVar("T")
_SHORT = {"--lr": "--optim.dense.lr", "--rows-lr": "--optim.rows.lr"}


def spelled_out(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with --lr and --rows-lr under the names of their settings."""
    parts = [argument.partition("=") for argument in arguments]
    return [_SHORT.get(flag, flag) + equals + value for flag, equals, value in parts]


def config_file(arguments: Sequence[str]) -> Path | None:
    """Return the file that --config names, or None."""
    named = value_of(arguments, "--config")
    return Path(named) if named else None


def model_name(arguments: Sequence[str]) -> str | None:
    """Return the architecture that --model or --model.name names, or None."""
    return value_of(arguments, "--model") or value_of(arguments, "--model.name")


def parsed(
    base: T,
    arguments: Sequence[str],
    *,
    prog: str,
    description: str,
    read: Sequence[str] = ("--config",),
) -> T:
    """Return settings whose defaults are those of `base`; the flags that were `read` before are in it already."""
    for flag in read:
        arguments = _without(arguments, flag)
    return tyro.cli(
        type(base),
        default=base,
        args=arguments,
        prog=prog,
        description=description,
        config=(tyro.conf.AvoidSubcommands,),
    )


def value_of(arguments: Sequence[str], flag: str) -> str | None:
    """Return the value of a flag that is needed before the others can be read."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            if place + 1 == len(arguments):
                raise UsageError(f"{flag} needs a value, got none")
            return arguments[place + 1]
    return None


def _without(arguments: Sequence[str], flag: str) -> list[str]:
    rest = [a for a in arguments if not a.startswith(f"{flag}=")]
    if flag in rest:
        place = rest.index(flag)
        del rest[place : place + 2]
    return rest
