"""What a launcher such as torchrun tells each of its ranks through the environment. Imports no torch."""

import os
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from dlrm_adahessian.errors import ProgramError, ToldElsewhereError


def alone() -> bool:
    """Whether this process is the only one."""
    return int(os.environ.get("WORLD_SIZE", "1")) == 1


def is_first() -> bool:
    """Whether this process is the first rank, or the only one."""
    return os.environ.get("RANK", "0") == "0"


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
