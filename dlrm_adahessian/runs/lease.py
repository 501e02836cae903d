"""Leases: of processes on several machines that see one folder, one alone works on a run.

Network disks often lack `flock`, so a lease is a file. Whoever makes `NAME.lease-1` holds the first lease; its content says
who that is. The holder touches it as long as it works, and sets its time to 0 when it ends. A lease that was not touched
for a while has expired, and whoever makes `NAME.lease-2` holds the next. A file system lets exactly one process make a
file of a new name, so each lease has one holder. No lease is removed or renamed: a name that came back could be taken by
a process that looked at an earlier file of that name (docs/adr/0013-leases.md).

Ages are differences of times that the file system set, so the clocks of machines may differ.
"""

import errno
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self

from dlrm_adahessian.runs.files import flush_to_disk, new_file, why_not_plain
from dlrm_adahessian.runs.sealed import storage_errors

_TOUCHES = 6  # within the time after which a lease expires
_LATE = 0.5  # of that time; a holder that touches so late gives up, before others may take over


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds a lease.

    Attributes:
        host: name of its machine.
        pid: its number there.
        started: when it began, in clock ticks of the system since that started.
        system: identifies the system and its numbering of processes; "" where it does not say.
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
        """Whether it ran on this machine, and has ended; of other machines nobody knows."""
        if not self.system or self.system != _system():
            return False
        try:
            os.kill(self.pid, 0)  # sends nothing
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        state, started = _state(self.pid)
        return state in ("Z", "X") or started not in (0, self.started)

    def __str__(self) -> str:
        """Return its machine and its number."""
        return f"{self.host} (process {self.pid})"


class Lease:
    """A lease that this process holds; as a context manager it is kept until the block ends, however it ends."""

    def __init__(self, path: Path, number: int, seconds: float, lost: Callable[[], None]) -> None:
        """Hold the lease of a number, whose file this process has just made; see `take`."""
        self._path, self._number, self._seconds, self._lost = path, number, seconds, lost
        self._touched = _seconds_since_start()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @classmethod
    def take(cls, path: Path, seconds: float, lost: Callable[[], None]) -> Self | Holder:
        """Take the lease of a run, unless another process holds it.

        Args:
            path: the folder of the run, beside which the lease is; it may be absent.
            seconds: after which a lease that was not touched expires; the same for all processes.
            lost: called, in a thread, when the lease was not kept in time: another process may train the run now, so this
                one must write nothing more to its folder.

        Returns:
            The lease, or who holds it; a folder that cannot be written is a StorageError.
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
                    if _time_in(path.parent) - touched <= seconds and not holder.is_dead:
                        return holder
                    number += 1

    def __enter__(self) -> Self:
        """Begin to touch the lease."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Give the lease back."""
        self._stop.set()
        self._thread.join()
        with suppress(OSError):  # it expires
            os.utime(_file(self._path, self._number), (0, 0), follow_symlinks=False)

    def touch(self) -> bool:
        """Touch the lease; return whether it is held still."""
        now = _seconds_since_start()
        if now - self._touched > _LATE * self._seconds or _file(self._path, self._number + 1).exists():
            return False
        with suppress(OSError):  # of a disk that does not answer for a moment; the next time counts
            os.utime(_file(self._path, self._number), follow_symlinks=False)
            self._touched = now
        return True

    def _keep(self) -> None:
        while not self._stop.wait(self._seconds / _TOUCHES):
            if not self.touch():
                self._lost()
                return


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.lease-{number}")


def _look(file: Path) -> tuple[float, Holder]:
    """Return when a lease was touched, and who holds it; a holder that has just made it may have said nothing yet."""
    if (found := why_not_plain(file)) is not None:
        raise OSError(errno.EINVAL, f"it is {found}, not a plain file", str(file))
    with file.open("rb") as opened:  # network disks may show an old time of a file that is not opened
        touched, content = os.fstat(opened.fileno()).st_mtime, opened.read(4096)
    try:
        return touched, Holder(**json.loads(content))
    except (ValueError, TypeError):
        return touched, Holder()


def _time_in(folder: Path) -> float:
    """Return the time by the clock that stamps files in a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.utime(file.fileno())
        return os.fstat(file.fileno()).st_mtime


def _seconds_since_start() -> float:
    """Return a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _system() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _state(pid: int) -> tuple[str, int]:
    """Return the state of a process as a letter, and when it began in clock ticks; "" and 0 where nothing says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])
