"""What a launcher such as torchrun tells each of its ranks through the environment. Imports no torch."""

import io
import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from dlrm_adahessian.errors import ProgramError, ToldElsewhereError, UsageError
from dlrm_adahessian.runtime.terminal import say

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
def flags_refused() -> Generator[None]:
    """Make an error of what the flags library prints and leaves with, on a rank that tells the others before it leaves.

    Yields:
        Nothing.

    Raises:
        UsageError: a flag is wrong, and this rank is not alone.
        SystemExit: as the block raised it: help was asked for, which the first rank prints, or this process is alone.
    """
    if alone():
        yield
        return
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            yield
    except SystemExit as leaving:
        if leaving.code == 2:  # as the flags library leaves where a flag is wrong
            raise UsageError(printed.getvalue().strip()) from leaving
        if is_first():
            say(printed.getvalue().rstrip())
        raise


@contextmanager
def told_once() -> Generator[None]:
    """Let only the first rank print and complain within the block; for mistakes that all ranks find alike.

    Yields:
        Nothing.

    Raises:
        ToldElsewhereError: the block failed on another rank than the first.
    """
    if is_first():
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        try:
            yield
        except ProgramError as error:
            raise ToldElsewhereError(error.exit_code) from error
