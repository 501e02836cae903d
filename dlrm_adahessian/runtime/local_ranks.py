"""Start, supervise, and stop the ranks of one machine. Imports no torch.

The ranks connect through a file that only this user can read. Torch's own store, which torchrun uses, listens on all
network interfaces without authentication.
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

_PATIENCE = 30.0  # seconds for the other ranks to exit after one has failed, as in torchrun
_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def become_ranks(ranks: int) -> int | None:
    """Fork into `ranks` processes. The caller becomes the launcher: it waits for them and forwards signals.

    If a rank fails, the others have 30 s to exit before they are killed. If the launcher is killed, so are the ranks.

    Args:
        ranks: number of ranks, at least 1.

    Returns:
        None in each rank. In the launcher, after all ranks have ended, the exit code of the first that failed, with 128 + N
        for signal N; 0 if none failed.

    Raises:
        UsageError: the system cannot start more processes.
    """
    launcher, folder = os.getpid(), Path(tempfile.mkdtemp(prefix="dlrm_adahessian-"))
    watched = stopping() | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    living: set[int] = set()
    for rank in range(ranks):
        try:
            pid = os.fork()
        except OSError as error:  # ranks that have started end with this process
            shutil.rmtree(folder)
            raise UsageError(
                f"{ranks} ranks need {ranks} processes, but the system can start only {rank}: {error.strerror}. "
                "Lower --ranks."
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
    """Turn a fork of the launcher into a rank."""
    os.setpgid(0, 0)  # Ctrl-C reaches the launcher's process group; the launcher forwards it once
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # the launcher ended before prctl took effect
        sys.exit(128 + signal.SIGKILL)
    threads = max(1, len(os.sched_getaffinity(0)) // ranks)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))
    os.environ.update({STORE: str(store), "RANK": str(rank), "LOCAL_RANK": str(rank)})
    os.environ.update(dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(ranks)))
    quiet_libraries()  # again, because it depends on the rank


def _watch(living: set[int], watched: Collection[int]) -> int:
    """Forward signals until all ranks have ended, and return the exit code of the first that failed, or 0."""
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
    """Remove ended processes from `living`, and return their exit codes."""
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
