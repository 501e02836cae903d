"""Read the environment variables that a launcher such as torchrun sets for each rank. Imports no torch."""

import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from dlrm_adahessian.errors import ProgramError, ToldElsewhereError, UsageError

STORE = "DLRM_ADAHESSIAN_STORE"
"""Variable with the file through which ranks of one machine connect. If unset, they use torchrun's address."""

_COUNTS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_LAUNCH = "Start ranks with dlrm-adahessian launch or torchrun, or unset the variable for a single process."


def alone() -> bool:
    """Return whether this process is the only one."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def is_first() -> bool:
    """Return whether this process is the first rank, or the only process."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Return whether this process is the first rank on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def require_sound_launch() -> None:
    """Check the launcher's environment variables: integers, a rank in range, and a complete address.

    Raises:
        UsageError: a variable is invalid or missing.
    """
    for name in (*_COUNTS, "MASTER_PORT"):
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise UsageError(f"{name} must be an integer, got {value!r}. {_LAUNCH}")
    if "RANK" not in os.environ:
        return
    needed = ("WORLD_SIZE",) if STORE in os.environ else ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if name not in os.environ]:
        raise UsageError(
            f"RANK is set, but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not. {_LAUNCH}"
        )
    rank, world_size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if int(rank) >= int(world_size):
        raise UsageError(f"RANK must be below WORLD_SIZE, got {rank} of {world_size}. {_LAUNCH}")


@contextmanager
def printed_once() -> Generator[None]:
    """Let only the first rank print within the block, for output such as help that is the same on all ranks."""
    if is_first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def told_once() -> Generator[None]:
    """Let only the first rank print and report errors within the block, for mistakes that all ranks detect.

    Yields:
        Nothing.

    Raises:
        ProgramError: the error of the block, on the first rank.
        ToldElsewhereError: the block failed on a rank other than the first.
    """
    with printed_once():
        try:
            yield
        except ProgramError as error:
            if is_first():
                raise
            raise ToldElsewhereError(error.exit_code) from error
