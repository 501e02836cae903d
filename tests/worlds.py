"""Several ranks as processes of this machine, over gloo.

They are forked from a server that has imported the heavy packages once: 4 s for all ranks instead of 4 s for each. Not the
program itself, which starts numba's threads, and those are not for forking.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

os.environ.setdefault(
    "TORCH_CPP_LOG_LEVEL", "ERROR"
)  # as the command line sets it, which here comes after torch
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(
    ["tests.one_thread", "torchrec.distributed.planner", "numba", "pyarrow", "scipy.stats"]
)


def start(ranks: int, work: Callable[..., int | None], *arguments: object, log: Path) -> list[BaseProcess]:
    """Start `work(*arguments)` on each rank; what it returns is its exit code, what it prints goes to LOG.RANK."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        _FORKSERVER.Process(target=_run, args=(rank, ranks, port, log, work, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def wait(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Return the exit codes; a rank that has none by then is killed."""
    for process in processes:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def run(ranks: int, work: Callable[..., int | None], *arguments: object, log: Path) -> None:
    """Run `work(*arguments)` on each rank to its end."""
    codes = wait(start(ranks, work, *arguments, log=log))
    assert codes == [0] * ranks, "\n".join(printed(log, rank) for rank in range(ranks))


def printed(log: Path, rank: int) -> str:
    """Return what a rank printed."""
    return log.with_suffix(f".{rank}").read_text()


def _run(
    rank: int,
    ranks: int,
    port: int,
    log: Path,
    work: Callable[..., int | None],
    arguments: tuple[object, ...],
) -> None:
    output = os.open(log.with_suffix(f".{rank}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    sys.exit(work(*arguments))
