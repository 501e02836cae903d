"""Train and evaluate in an empty network namespace with only a loopback interface, and check which ports are open."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import ROOT, Launched, job, last_step, torchrun, wait_until

_PROGRAM = [sys.executable, "-m", "dlrm_adahessian"]
_LOOPBACK, _ALL_INTERFACES = "127.0.0.1", "::"
# For each name, a command and the addresses where its first process and child processes should listen (SECURITY.md).
_WAYS: dict[str, tuple[list[str], dict[str, set[str]]]] = {
    "alone": ([*_PROGRAM, "train"], {"launcher": {_LOOPBACK}}),
    "launch": ([*_PROGRAM, "launch", "--ranks", "2"], {"launcher": set(), "ranks": {_LOOPBACK}}),
    "torchrun": (torchrun(2), {"launcher": {_ALL_INTERFACES}, "ranks": {_LOOPBACK}}),
}

# Bring up loopback by ioctl (SIOCSIFFLAGS with IFF_UP and IFF_RUNNING), because the tool `ip` may be missing.
_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Train and evaluate without a network, on one process and on two ranks, then check where processes listen."""
    tried = "train and evaluate in an empty network namespace, by each way to start"
    with counting(19, tried, 2 * len(_WAYS) * times) as (outcome, show):
        isolated = _isolated(["-c", "pass"], folder / "log")
        if isolated:
            outcome.skipped = f"unshare -rn is not permitted: {(folder / 'log').read_text().strip()[-200:]}"
        for number in range(0 if isolated else times):
            for way, (program, _) in _WAYS.items():
                out = folder / f"run-{number}-{way}"
                evaluate = [*_PROGRAM, "evaluate", "--run", str(out), "--data-path", *_prepared(folder, out)]
                for command in ([*program, *job(out)], evaluate):
                    code = _isolated(command[1:], folder / "log")
                    outcome.expect(code == 0, f"{way}: exit {code}: {(folder / 'log').read_text()[-500:]}")
                    show()
    yield outcome
    yield _listening(times, folder)


def _prepared(folder: Path, out: Path) -> list[str]:
    return [str(folder / "cache" / "prepared"), "--part", "test", "--out", str(out.with_suffix(".parquet"))]


def _isolated(arguments: list[str], log: Path) -> int:
    """Run Python without a network, and return its exit code."""
    if shutil.which("unshare") is None:
        log.write_text("unshare is missing")
        return 127
    # The name of the prepared data is known only after preparation.
    made = next(log.parent.glob("cache/synthetic-*[0-9a-f]"), None)
    arguments = [str(made) if argument.endswith("cache/prepared") else argument for argument in arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        command = ["unshare", "-rn", sys.executable, "-c", _UP, *arguments]
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode


def _listening(times: int, folder: Path) -> Outcome:
    with counting(29, "where one process, and 2 ranks and their launcher, listen", len(_WAYS) * times) as (
        outcome,
        show,
    ):
        outcome.figures["sockets"] = {}
        for number in range(times):
            for way, (command, expected) in _WAYS.items():
                out = folder / f"listening-{number}-{way}"
                found = _sockets([*command, *job(out, "--epochs", 50)], out)
                outcome.figures["sockets"][way] = found
                outcome.expect(
                    {who: set(where) for who, where in found.items()} == expected, f"{way}: {found}"
                )
                show()
    return outcome


def _sockets(command: list[str], out: Path) -> dict[str, list[str]]:
    """Return the addresses of the sockets on which a launcher and its ranks listen during training."""
    launched = Launched(command, out.with_suffix(".log"))
    found: dict[str, list[str]] = {}
    try:
        wait_until(lambda: last_step(out), launched.alive)
        for process in launched.left():
            who = "launcher" if process.pid == launched.process.pid else "ranks"
            found.setdefault(who, []).extend(
                connection.laddr.ip
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            )
    finally:
        launched.end()
    return found
