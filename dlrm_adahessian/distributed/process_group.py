"""Join the process group: alone, or with the ranks that a launcher started.

Gloo listens also for a rank that is alone; where all ranks are of one machine, on its loopback.
"""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import LostRankError, UsageError
from dlrm_adahessian.runtime.launcher import STORE

DEFAULT_TIMEOUT = 600.0  # seconds


@contextmanager
def init_process_group(
    device: torch.device | None = None, timeout: float = DEFAULT_TIMEOUT
) -> Generator[None]:
    """Hold the default process group while the block runs; within another such block that one's stays.

    Under a launcher (RANK is set) the ranks meet at the file or at the address that it names; otherwise this process is a
    world of its own.

    Args:
        device: what the ranks compute on; on "cuda" their GPU tensors travel by NCCL. Default: the CPU.
        timeout: seconds after which a rank that does not answer is given up.

    Yields:
        Nothing; `UsageError` where another program holds the port of the first rank, `LostRankError` where not all ranks
        come in time.

    Raises:
        LostRankError: the block raised it; then nobody is waited for.
    """
    if dist.is_initialized():
        yield
        return
    if "RANK" in os.environ:
        _join_launched(device, timedelta(seconds=timeout))
    else:
        _bind_loopback()
        dist.init_process_group(_backend(device), store=dist.HashStore(), rank=0, world_size=1)
    others_answer = True
    try:
        yield
    except LostRankError:
        others_answer = False
        raise
    finally:
        if others_answer and dist.get_world_size() > 1:
            ranks.leave_together()
        dist.destroy_process_group()


def _join_launched(device: torch.device | None, timeout: timedelta) -> None:
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE"):
        _bind_loopback()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with _absence_refused(rank, world_size, timeout):
        with _no_stack_of_addresses():
            store = _meeting_place(world_size, timeout)
        # torchrun keeps its store when it restarts the ranks, and in it the keys of the ranks that died. A prefix
        # per restart gives each generation fresh keys: 4 of 15 restarts failed without it, 0 of 12 with it.
        generation = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"restart-{generation}", store)
        store.set_timeout(timeout)
        dist.init_process_group(
            _backend(device), store=store, rank=rank, world_size=world_size, timeout=timeout
        )


def _meeting_place(world_size: int, timeout: timedelta) -> dist.Store:
    if file := os.environ.get(STORE):
        return dist.FileStore(file, world_size)
    return next(iter(dist.rendezvous("env://", timeout=timeout)))[0]


@contextmanager
def _no_stack_of_addresses() -> Generator[None]:
    """Keep from the standard error what torch prints there of a connection that fails; the exception says it too."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _absence_refused(rank: int, world_size: int, timeout: timedelta) -> Generator[None]:
    """Say in a sentence why the ranks could not meet: the port is another program's, or not all of them came in time."""
    try:
        yield
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise UsageError(
                f"the first rank listens on MASTER_PORT, and port {os.environ['MASTER_PORT']} is in use; choose another "
                "MASTER_PORT, or let torchrun --standalone choose one"
            ) from error
        # A store in a file has no error of its own.
        if not isinstance(error, dist.DistError) and "timeout" not in str(error):
            raise
        place = os.environ.get(STORE) or f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LostRankError(
            f"{world_size} ranks were to meet at {place}, and not all came while rank {rank} waited "
            f"{timeout.total_seconds():g} s; start all with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE, see that a "
            "firewall lets them through, or allow more with --timeout"
        ) from error


def _backend(device: torch.device | None) -> str:
    return "cpu:gloo,cuda:nccl" if device is not None and device.type == "cuda" else "gloo"


def _bind_loopback() -> None:
    # They otherwise listen on an address that others may reach: gloo on that of the host name, NCCL on a network card's.
    for name in {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
