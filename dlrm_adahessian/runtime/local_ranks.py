"""The ranks of one machine: started, watched, and ended together. Imports no torch.

They meet at a file that only this user can read. Torch's own meeting place, which torchrun uses, listens on all
interfaces and asks nobody who he is.
"""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.launcher import STORE
from dlrm_adahessian.runtime.process import quiet_libraries
from dlrm_adahessian.runtime.signals import stopping

_PATIENCE = 30.0  # seconds that the ranks have to leave when one has failed; torchrun's
_PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def become_ranks(ranks: int) -> int | None:
    """Go on as so many processes, while the one that called waits for them and passes signals on.

    When a rank fails, the others have 30 s to leave by themselves; then they are killed. When the launcher is killed, so
    are they.

    Args:
        ranks: at least 1.

    Returns:
        None in each of the ranks. In the launcher, when all have ended, the exit code of the first that failed, 128 + N
        for one that signal N ended; 0 where none did.

    Raises:
        UsageError: the system starts no more processes.
    """
    launcher, folder = os.getpid(), Path(tempfile.mkdtemp(prefix="dlrm_adahessian-"))
    watched = stopping() | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    living: set[int] = set()
    for rank in range(ranks):
        try:
            pid = os.fork()
        except OSError as error:  # the ranks that have started end with this process
            shutil.rmtree(folder)
            raise UsageError(
                f"{ranks} ranks are {ranks} processes, and the system starts no more than {rank}: {error.strerror}; "
                "lower --ranks"
            ) from error
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            _become(rank, ranks, folder / "store", launcher)
            return None
        living.add(pid)
    try:
        return _watch(living, watched)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        shutil.rmtree(folder)


def _become(rank: int, ranks: int, store: Path, launcher: int) -> None:
    """Make a fork of the launcher a rank."""
    os.setpgid(0, 0)  # Ctrl-C reaches the launcher's group: a rank gets it once, from the launcher
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it ended before that
        sys.exit(128 + signal.SIGKILL)
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.update({STORE: str(store), "RANK": str(rank), "LOCAL_RANK": str(rank)})
    os.environ.update(dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks)))
    quiet_libraries()  # once more: it asks which rank this is


def _watch(living: set[int], watched: Collection[int]) -> int:
    """Pass signals on until all ranks have ended; return the exit code of the first that failed, or 0."""
    code, deadline = 0, 0.0
    while living:
        if not code:
            came = signal.sigwaitinfo(watched)
        elif (came := signal.sigtimedwait(watched, max(0.0, deadline - time.monotonic()))) is None:
            _send(signal.SIGKILL, living)
            came = signal.sigwaitinfo(watched)
        if came.si_signo != signal.SIGCHLD:
            _send(came.si_signo, living)
        for ended in _ended(living):
            if ended and not code:
                code, deadline = ended, time.monotonic() + _PATIENCE
    return code


def _ended(living: set[int]) -> list[int]:
    """Take those that have ended out of the living ones; return their exit codes."""
    codes: list[int] = []
    for pid in tuple(living):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            living.remove(pid)
            left = os.waitstatus_to_exitcode(status)
            codes.append(left if left >= 0 else 128 - left)
    return codes


def _send(number: int, pids: Collection[int]) -> None:
    for pid in pids:
        os.kill(pid, number)
