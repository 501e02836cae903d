"""The command line: what all commands share: the name of the command, exit codes, complaints."""

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

_BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: as `sys.argv[1:]`, which is the default.

    Returns:
        The exit code of the contract; every error that a user can act on becomes one.

    Raises:
        BrokenPipeError: not of the standard output.
    """
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _reader_left():
            raise
        # What is still buffered must not be tried again at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return _BROKEN_PIPE


def _reader_left() -> bool:
    """Whether nobody reads our output any more, as when head has enough."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(given: list[str]) -> int:
    if "--version" in given[:2]:  # alone, or of a command, as `train.py --version` asks
        say(__version__)
        return 0
    if not given or given[0] in ("-h", "--help"):
        say(_usage())
        return 0 if given else UsageError.exit_code
    quiet_libraries()
    keep_freed_memory()
    try:
        require_sound_launch()  # told by each rank: it may be wrong on one alone
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
            f"the system gives no more memory: {error or 'while the program was loaded'}; end other programs, or lower what "
            "needs it (--batch-size, --model, the number of rows)"
        )
        return StorageError.exit_code
    except KeyboardInterrupt:
        return 130
    except SystemExit as leaving:  # the flags library leaves with 2 when a flag is wrong
        return UsageError.exit_code if leaving.code == 2 else int(leaving.code or 0)


def _command(name: str) -> Callable[[Sequence[str]], int]:
    if name not in NAMES:
        raise UsageError(f"a command is one of {', '.join(NAMES)}, got {name!r}")
    if name not in ("train", "daily") and not alone():
        raise UsageError(
            f"{name} runs in one process, and a launcher started several; start it without a launcher"
        )
    return command(name)


def _usage() -> str:
    lines = [f"  {name:<12}{command(name).__doc__}" for name in NAMES]
    return "usage: python -m dlrm_adahessian COMMAND [--help] [flags]\n\n" + "\n".join(lines)


def _complain(text: str) -> None:
    if not text:  # another rank tells
        return
    with suppress(BrokenPipeError):  # the exit code still tells
        sys.stderr.write(f"error: {printable(text)}\n")
