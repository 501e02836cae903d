"""What a launcher such as torchrun tells each of its ranks through the environment. Imports no torch."""

import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from dlrm_adahessian.errors import ProgramError, ToldElsewhereError, UsageError

STORE = "DLRM_ADAHESSIAN_STORE"
"""Names the file at which ranks of one machine meet; without it they meet at the address that torchrun gives them."""

_COUNTS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_LAUNCH = "start ranks with dlrm-adahessian launch or torchrun, or unset it for a process that is alone"


def alone() -> bool:
    """Whether this process is the only one."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def is_first() -> bool:
    """Whether this process is the first rank, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Whether this process is the first of the ranks on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def require_sound_launch() -> None:
    """Refuse an environment that no launcher makes: numbers that are none, a rank that is none, half an address.

    Raises:
        UsageError: the environment is such.
    """
    for name in (*_COUNTS, "MASTER_PORT"):
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise UsageError(f"{name} must be a whole number, got {value!r}; {_LAUNCH}")
    if "RANK" not in os.environ:
        return
    needed = ("WORLD_SIZE",) if STORE in os.environ else ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if name not in os.environ]:
        raise UsageError(
            f"RANK is set, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not; {_LAUNCH}"
        )
    rank, world_size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if int(rank) >= int(world_size):
        raise UsageError(f"RANK counts from 0 and is below WORLD_SIZE, got {rank} of {world_size}; {_LAUNCH}")


@contextmanager
def printed_once() -> Generator[None]:
    """Let only the first rank print within the block; for help, which is the same on all."""
    if is_first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def told_once() -> Generator[None]:
    """Let only the first rank print and complain within the block; for mistakes that all ranks find alike.

    Yields:
        Nothing.

    Raises:
        ProgramError: as the block raised it, on the first rank.
        ToldElsewhereError: the block failed on another rank than the first.
    """
    with printed_once():
        try:
            yield
        except ProgramError as error:
            if is_first():
                raise
            raise ToldElsewhereError(error.exit_code) from error
