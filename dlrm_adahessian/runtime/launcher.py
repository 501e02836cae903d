"""What a launcher such as torchrun tells each of its ranks through the environment. Imports no torch."""

import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from dlrm_adahessian.errors import ProgramError, ToldElsewhereError

STORE = "DLRM_ADAHESSIAN_STORE"
"""Names the file at which ranks of one machine meet; without it they meet at the address that torchrun gives them."""


def alone() -> bool:
    """Whether this process is the only one."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def is_first() -> bool:
    """Whether this process is the first rank, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def is_first_here() -> bool:
    """Whether this process is the first of the ranks on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


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
