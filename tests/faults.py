"""Inject faults into file operations: a child process dies at its n-th one, or the n-th one fails or is cut short.

An operation is an open, rename, mkdir, unlink, rmdir, listing or fsync, or the middle of a write. Tests count n up
from 1 until the child finishes before the fault, so they cover every operation.
"""

import errno
import io
import itertools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import IO, Protocol

from dlrm_adahessian.errors import ProgramError

_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
_NOT_MET = 0
_SURVIVED = 1
_DEFECT = 99


class Outcome(Enum):
    """How the child ended."""

    KILLED = "killed"
    REPORTED = "ended with the program's own error"
    SURVIVED = "met the fault and succeeded all the same"


def kill() -> None:
    """End this process like SIGKILL, without any cleanup."""
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    """Fail the operation with a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def io_error() -> None:
    """Fail the operation with an I/O error."""
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def each_operation(
    action: Callable[[Path], object], fault: Callable[[], None], fresh: Callable[[], Path]
) -> Iterator[tuple[Path, Outcome]]:
    """Run `action(fresh())` in children with `fault` at operation 1, 2, ... until one finishes before it."""
    return _each(action, lambda point: _Counter(point, fault), fresh)


def each_write_cut_short(
    action: Callable[[Path], object], fresh: Callable[[], Path]
) -> Iterator[tuple[Path, Outcome]]:
    """Run `action(fresh())` in children whose write 1, 2, ... writes half of its bytes and reports it without an error."""
    return _each(action, _ShortWrite, fresh)


class _Trap(Protocol):
    met: bool

    def install(self) -> None: ...


def _each(
    action: Callable[[Path], object], trap: Callable[[int], _Trap], fresh: Callable[[], Path]
) -> Iterator[tuple[Path, Outcome]]:
    for point in itertools.count(1):
        path = fresh()
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # torch has threads
            child = os.fork()
        if child == 0:
            _run_child(lambda path=path: action(path), trap(point))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status != _DEFECT, f"unexpected error at operation {point}; see its traceback"
        if status == _NOT_MET:
            assert point > 1, "the action performs no file operation"
            return
        if status == -signal.SIGKILL:
            yield path, Outcome.KILLED
        else:
            yield path, Outcome.SURVIVED if status == _SURVIVED else Outcome.REPORTED


def _run_child(action: Callable[[], object], trap: _Trap) -> None:
    status = _DEFECT
    try:
        trap.install()
        try:
            action()
            status = _SURVIVED if trap.met else _NOT_MET
        except ProgramError as error:
            status = error.exit_code
        except BaseException:
            traceback.print_exc()
    finally:
        os._exit(status)


class _ShortWrite:
    """Make one write take half of its bytes, as the system may at any time, below Python's own buffers."""

    def __init__(self, point: int) -> None:
        self.left = point

    @property
    def met(self) -> bool:
        return self.left <= 0

    def install(self) -> None:
        os.fdopen = self._opened  # runs/files.py opens all files for writing with it

    def _opened(self, descriptor: int, mode: str, buffering: int) -> IO:
        raw = _ShortFile(descriptor, mode.replace("b", ""), self)
        return raw if buffering == 0 else io.BufferedWriter(raw)


class _ShortFile(io.FileIO):
    def __init__(self, descriptor: int, mode: str, trap: _ShortWrite) -> None:
        super().__init__(descriptor, mode)
        self._trap = trap

    def write(self, data) -> int:
        data = memoryview(data).cast("B")
        if len(data) > 1:
            self._trap.left -= 1
            if self._trap.left == 0:
                data = data[: len(data) // 2]
        return super().write(data)


class _Counter:
    def __init__(self, point: int, fault: Callable[[], None]) -> None:
        self.left, self.fault = point, fault

    @property
    def met(self) -> bool:
        return self.left <= 0

    def operation(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.fault()

    def install(self) -> None:
        real_open = os.fdopen

        def fsync(descriptor: int) -> None:
            self.operation()
            os.fstat(
                descriptor
            )  # fails for closed files; a real flush is slow, and no process could see its effect

        def open_watched(descriptor: int, mode: str, buffering: int) -> "_WatchedFile":
            return _WatchedFile(real_open(descriptor, mode, buffering), self)

        def count(event: str, arguments: tuple[object, ...]) -> None:
            # A descriptor that is opened again was opened by name before.
            if event in _OPERATIONS and not (event == "open" and isinstance(arguments[0], int)):
                self.operation()

        os.fsync, os.fdopen = fsync, open_watched
        sys.addaudithook(count)


class _WatchedFile:
    """A file with an operation in the middle of every write."""

    def __init__(self, file, counter: _Counter) -> None:
        self._file, self._counter = file, counter

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data) -> int:
        half = len(data) // 2
        written = self._file.write(data[:half])
        with suppress(AttributeError):
            self._file.flush()
        self._counter.operation()
        return written + self._file.write(data[half:])
