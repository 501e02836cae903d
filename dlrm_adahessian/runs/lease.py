"""Leases: exactly one of the processes that see a folder works on a run, even on several machines.

Network disks often lack `flock`, so a lease is a file. The process that creates `NAME.lease-1` holds the first lease, and
the file contains its identity. The holder touches the file while it works, and sets its time to 0 at the end. If the file
was not touched for a while, the lease has expired, and the process that creates `NAME.lease-2` holds the next one. A file
system lets only one process create a file of a new name, so each lease has one holder. Leases are never removed or renamed,
because a process that looked at an earlier file could then take the same name (docs/adr/0013-leases.md).

Ages are differences of times set by the file system, so the clocks of the machines may differ.
"""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self

from dlrm_adahessian.runs.files import flush_to_disk, new_file, time_in, why_not_plain
from dlrm_adahessian.runs.sealed import storage_errors

_TOUCHES = 6  # touches within the time after which a lease expires
_LATE = 0.5  # share of that time after which a late holder gives up, before others may take over


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a lease.

    Attributes:
        host: name of its machine.
        pid: process id.
        started: start time in clock ticks since the boot of the machine.
        system: identifies the boot and the process namespace; "" if unknown.
    """

    host: str = "?"
    pid: int = 0
    started: int = 0
    system: str = ""

    @classmethod
    def this(cls) -> Self:
        """Return this process."""
        pid = os.getpid()
        return cls(host=socket.gethostname(), pid=pid, started=_state(pid)[1], system=_system())

    @property
    def is_dead(self) -> bool:
        """Whether the process ran on this machine and has ended. For other machines, this is unknown."""
        if not self.system or self.system != _system():
            return False
        try:
            os.kill(self.pid, 0)  # only checks that the process exists
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        state, started = _state(self.pid)
        return state in ("Z", "X") or started not in (0, self.started)

    def __str__(self) -> str:
        """Return machine and process id."""
        return f"{self.host} (process {self.pid})"


class Lease:
    """A lease of this process. As a context manager, it is kept until the block ends."""

    def __init__(self, path: Path, number: int, seconds: float, lost: Callable[[], None]) -> None:
        """Hold the lease with a number, whose file this process has just created; see `take`."""
        self._path, self._number, self._seconds, self._lost = path, number, seconds, lost
        self._touched = _seconds_since_start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @classmethod
    def take(cls, path: Path, seconds: float, lost: Callable[[], None]) -> Self | Holder:
        """Take the lease of a run, unless another process holds it.

        Args:
            path: folder of the run. It may be missing. The lease is next to it.
            seconds: time without a touch after which a lease expires; the same for all processes.
            lost: called in a thread if the lease was not kept in time. Another process may then train the run, so this
                one must no longer write to its folder.

        Returns:
            The lease, or its holder. Raises a StorageError if the folder cannot be written.
        """
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            number = 1
            while True:
                file = _file(path, number)
                held = cls(path, number, seconds, lost)
                try:
                    with new_file(file) as made:
                        made.write(json.dumps(asdict(Holder.this())).encode())
                        made.flush()
                        flush_to_disk(made.fileno())
                    return held
                except FileExistsError:
                    touched, holder = _look(file)
                    if time_in(path.parent) - touched <= seconds and not holder.is_dead:
                        return holder
                    number += 1

    def __enter__(self) -> Self:
        """Start to touch the lease."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Release the lease."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):  # the lease then expires
            os.utime(_file(self._path, self._number), (0, 0), follow_symlinks=False)

    def renew(self) -> bool:
        """Touch the lease, and return whether this process still holds it."""
        now = _seconds_since_start()
        if now - self._touched > _LATE * self._seconds or _file(self._path, self._number + 1).exists():
            return False
        with suppress(OSError):  # the disk may not respond for a moment; the next touch counts
            os.utime(_file(self._path, self._number), follow_symlinks=False)
            self._touched = now
        return True

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / _TOUCHES):
            if not self.renew():
                self._lost()
                return


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.lease-{number}")


def _look(file: Path) -> tuple[float, Holder]:
    """Return the last touch and the holder of a lease. A new file may still be empty."""
    if (found := why_not_plain(file)) is not None:
        raise OSError(errno.EINVAL, f"it is {found}, not a plain file", str(file))
    with file.open("rb") as opened:  # network disks may report old times for files that are not open
        touched, content = os.fstat(opened.fileno()).st_mtime, opened.read(4096)
    try:
        return touched, Holder(**json.loads(content))
    except (ValueError, TypeError):
        return touched, Holder()


def _seconds_since_start() -> float:
    """Return the time of a monotonic clock that continues while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _system() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, int]:
    """Return the state letter of a process and its start time in clock ticks; "" and 0 if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
