"""Run several ranks as processes of this machine, over gloo.

They are forked from a server that imports the program once (preloaded.py), which takes 5 s for all ranks instead of each.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

os.environ.setdefault(
    "TORCH_CPP_LOG_LEVEL", "ERROR"
)  # as on the command line, which sets it before importing torch
_FORKSERVER = multiprocessing.get_context("forkserver")
_FORKSERVER.set_forkserver_preload(["tests.processes.preloaded"])


def start(ranks: int, work: Callable[..., int | None], *arguments: object, log: Path) -> list[BaseProcess]:
    """Start `work(*arguments)` on each rank. It returns the exit code, and its output goes to LOG.RANK."""
    port = _free_port()
    processes = [
        _FORKSERVER.Process(target=_run, args=(rank, ranks, port, log, work, arguments))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def in_turn(
    ranks: int, work: Callable[..., int | None], calls: Mapping[str, object], folder: Path
) -> tuple[dict[str, list[int]], dict[str, str]]:
    """Run `work(argument)` for several arguments in the same processes, with a new process group for each.

    Returns:
        For each named call, the results of all ranks and their output.
    """
    turns = [(name, argument, _free_port()) for name, argument in calls.items()]
    run(ranks, _take_turns, work, turns, folder, log=folder / "in-turn")
    codes = {name: [int((folder / f"{name}-code.{r}").read_text()) for r in range(ranks)] for name in calls}
    return codes, {name: "".join(printed(folder / name, r) for r in range(ranks)) for name in calls}


def wait(processes: list[BaseProcess], seconds: float = 120) -> list[int | None]:
    """Return the exit codes. Ranks that do not end in time are killed."""
    for process in processes:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def run(ranks: int, work: Callable[..., int | None], *arguments: object, log: Path) -> None:
    """Run `work(*arguments)` on each rank until it ends."""
    codes = wait(start(ranks, work, *arguments, log=log))
    assert codes == [0] * ranks, "\n".join(printed(log, rank) for rank in range(ranks))


def printed(log: Path, rank: int) -> str:
    """Return the output of a rank."""
    return log.with_suffix(f".{rank}").read_text()


def leave_launcher() -> None:
    """Make a rank look like a process without a launcher."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _print_to(log: Path) -> None:
    sys.stdout.flush()
    output = os.open(log.with_suffix(f".{os.environ['RANK']}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)


def _take_turns(
    work: Callable[[object], int | None], turns: list[tuple[str, object, int]], folder: Path
) -> None:
    for name, argument, port in turns:
        os.environ["MASTER_PORT"] = str(port)
        _print_to(folder / name)
        (folder / f"{name}-code.{os.environ['RANK']}").write_text(str(work(argument) or 0))


def _run(
    rank: int,
    ranks: int,
    port: int,
    log: Path,
    work: Callable[..., int | None],
    arguments: tuple[object, ...],
) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    _print_to(log)
    torch.set_num_threads(1)
    sys.exit(work(*arguments))
