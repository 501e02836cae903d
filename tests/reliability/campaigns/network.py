"""Training and evaluation in an empty network namespace whose loopback is up: nothing else is needed."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import ROOT, Launched, job, last_step, wait_until

_LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}

# Loopback is brought up by ioctl, SIOCSIFFLAGS with IFF_UP and IFF_RUNNING: the tool `ip` may not be there.
_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Train and evaluate without a network, on one process and on two ranks; then see where ranks listen."""
    with counting(
        19, "train and evaluate in an empty network namespace, 1 process and 2 ranks", 4 * times
    ) as (
        outcome,
        show,
    ):
        isolated = _isolated(["-c", "pass"], folder / "log")
        if isolated:
            outcome.skipped = f"unshare -rn is not permitted: {(folder / 'log').read_text().strip()[-200:]}"
        for number in range(0 if isolated else times):
            for ranks in (1, 2):
                out = folder / f"run-{number}-{ranks}"
                launcher = (
                    []
                    if ranks == 1
                    else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
                )
                for command in (
                    [*launcher, str(ROOT / "train.py"), *job(out)],
                    [
                        "-m",
                        "dlrm_adahessian",
                        "evaluate",
                        "--run",
                        str(out),
                        "--data-path",
                        *_prepared(folder, out),
                    ],
                ):
                    code = _isolated(command, folder / "log")
                    outcome.expect(code == 0, f"{ranks}: exit {code}: {(folder / 'log').read_text()[-500:]}")
                    show()
    yield outcome
    yield _listening(times, folder)


def _prepared(folder: Path, out: Path) -> list[str]:
    return [str(folder / "cache" / "prepared"), "--part", "test", "--out", str(out.with_suffix(".parquet"))]


def _isolated(arguments: list[str], log: Path) -> int:
    """Run Python without a network; return its exit code."""
    if shutil.which("unshare") is None:
        log.write_text("there is no unshare")
        return 127
    # The name of the prepared rows is known when they are there.
    made = next(log.parent.glob("cache/synthetic-*[0-9a-f]"), None)
    arguments = [str(made) if argument.endswith("cache/prepared") else argument for argument in arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as file:
        command = ["unshare", "-rn", sys.executable, "-c", _UP, *arguments]
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode


def _listening(times: int, folder: Path) -> Outcome:
    with counting(19, "where 2 ranks in training listen: loopback only", times) as (outcome, show):
        for number in range(times):
            out = folder / f"listening-{number}"
            launched = Launched(2, 0, job(out, "--epochs", 50), folder / "listening.log")
            try:
                wait_until(lambda out=out: last_step(out), launched.alive)
                addresses = {
                    connection.laddr.ip
                    for process in launched.left()
                    if "RANK" in process.environ()
                    for connection in process.net_connections("inet")
                    if connection.status == psutil.CONN_LISTEN
                }
            finally:
                launched.end()
            outcome.figures["addresses"] = sorted(addresses)
            outcome.expect(addresses <= _LOOPBACK and bool(addresses), f"ranks listen on {sorted(addresses)}")
            show()
    return outcome
