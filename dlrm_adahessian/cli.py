"""Run the command line: select the command, print errors, and return exit codes."""

import os
import select
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from dlrm_adahessian import __version__
from dlrm_adahessian.commands import NAMES, command
from dlrm_adahessian.errors import ProgramError, StorageError, UsageError
from dlrm_adahessian.runtime.launcher import alone, require_sound_launch, told_once
from dlrm_adahessian.runtime.process import is_lack_of_memory, keep_freed_memory, quiet_libraries
from dlrm_adahessian.runtime.terminal import printable, say

_BROKEN_PIPE = 141  # the status that a shell reports for a program ended by SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: command-line arguments; None for `sys.argv[1:]`.

    Returns:
        The exit code. Every error that a user can act on has one.

    Raises:
        BrokenPipeError: a pipe other than the standard output broke.
    """
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_left():
            raise
        # Python must not try to flush the remaining buffer at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return _BROKEN_PIPE


def _reader_left() -> bool:
    """Return whether the reader of the standard output has closed it, as `head` does."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(given: list[str]) -> int:
    if "--version" in given[:2]:  # with or without a command, because `train.py --version` includes one
        say(__version__)
        return 0
    if not given or given[0] in ("-h", "--help"):
        say(_usage())
        return 0 if given else UsageError.exit_code
    quiet_libraries()
    keep_freed_memory()
    try:
        require_sound_launch()  # every rank reports this error, because it may affect only one
        with told_once():
            run = _command(given[0])
        return run(given[1:])
    except ProgramError as error:
        _complain(str(error))
        return error.exit_code
    except (ImportError, MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        _complain(
            f"Out of memory: {error or 'while the program was loaded'}. Close other programs, or use less memory with a "
            "smaller --batch-size, --model, or number of rows."
        )
        return StorageError.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as leaving:  # the flags library exits with 2 if a flag is invalid
        return UsageError.exit_code if leaving.code == 2 else int(leaving.code or 0)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in NAMES:
        raise UsageError(f"Unknown command: {name!r}. The commands are {', '.join(NAMES)}.")
    if name not in ("train", "daily") and not alone():
        raise UsageError(
            f"{name} runs in one process, but a launcher started several. Start it without a launcher."
        )
    return command(name)


def _usage() -> str:
    lines = [f"  {name:<12}{command(name).__doc__}" for name in NAMES]
    return "usage: python -m dlrm_adahessian COMMAND [--help] [flags]\n\n" + "\n".join(lines)


def _complain(text: str) -> None:
    if not text:  # another rank reports the failure
        return
    with suppress(BrokenPipeError):  # the exit code still reports the failure
        sys.stderr.write(f"error: {printable(text)}\n")
