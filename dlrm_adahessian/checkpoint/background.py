"""Write checkpoints in a thread while training continues.

    begin      all ranks, between two steps: copy the tensors, create the folder
    thread     each rank: write, hash, and flush its copies
    proceed    all ranks, between later steps: once all have written, the first rank commits, as in writer.py
    thread     the first rank: remove replaced checkpoints

Ranks learn that all have written from the vote that they take in every step. The main thread of the first rank commits, so
files, manifest, folder name, and `latest` reach the disk in the same order as in a synchronous save. A kill therefore
leaves the same states.

Only one checkpoint is written at a time. There is only one copy, and a disk that is too slow would fall behind further, so
the next checkpoint waits. Copies reuse the memory of the previous ones: page faults of new memory would take three to
twenty times as long as the copy itself (docs/checkpoints.md).
"""

import json
import os
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from dlrm_adahessian.checkpoint.tensor_file import Entry, is_finite
from dlrm_adahessian.checkpoint.writer import (
    Contents,
    Draft,
    encode_state,
    refusal,
    remove_leftovers,
)
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import DivergedError

IDLE, BUSY, FAILED = 0, 1, 2
"""State of a rank's thread. Ranks act on the largest value over all ranks."""
# Out of 19. The thread uses the time that the steps leave. At a lower priority it would starve if more processes than
# cores compute. If it were preempted while holding the interpreter lock, the steps would have to wait as well.
_NICE = 10
# Seconds of pause per second of CPU time, which spreads the cost over more steps.
_PAUSE = 40.0
_BLOCK = 1 << 20  # entries copied at a time, and then checked while they are in the cache


class _AbandonedError(Exception):
    """The thread was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class _Saving:
    draft: Draft
    keep: int
    written: Future[dict[str, Entry]]


class BackgroundSaver:
    """Write one checkpoint at a time while training continues.

    All ranks call `begin`, `proceed`, and `finish` at the same steps. Leaving the context abandons uncommitted checkpoints.
    """

    def __init__(self) -> None:
        self.memory = SnapshotMemory()
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._abandoned, self._awaited = threading.Event(), threading.Event()
        self._worked = 0.0  # CPU time of the thread at its last pause
        self._saving: _Saving | None = None  # until it is committed
        self._removing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._saving is not None:
            self._saving.draft.drop()

    def status(self) -> int:
        """Return the state of this rank's thread: `IDLE`, `BUSY` or `FAILED`."""
        futures = self._futures()
        if any(future.done() and future.exception() for future in futures):
            return FAILED
        return IDLE if all(future.done() for future in futures) else BUSY

    def begin(self, folder: Path, contents: Contents, *, step: int, fingerprint: str, keep: int) -> None:
        """Copy the contents and start writing them, after finishing any previous checkpoint; see `writer.save`."""
        self.finish()
        copies: list[Contents] = []
        ranks.agreed(lambda: copies.append(self.memory.take(step, contents)))
        draft = Draft(folder, step, fingerprint, contents.shards)
        self._awaited.clear()
        written = self._thread.submit(lambda: draft.write(copies[0], self._pause))
        self._saving = _Saving(draft=draft, keep=keep, written=written)

    def proceed(self, status: int) -> None:
        """Commit the checkpoint if all ranks have written it. Raises the error of a rank's thread, if any.

        Args:
            status: largest status over all ranks, from the same vote.
        """
        if status == FAILED:
            ranks.agreed(self._fail)
        elif status == IDLE:
            self._commit()

    def finish(self) -> None:
        """Wait until the checkpoint is written, commit it, and wait until replaced checkpoints are removed."""
        self._awaited.set()
        self._commit()
        if self._removing is not None:
            ranks.agreed(self._removing.result)
            self._removing = None

    def _commit(self) -> None:
        if self._saving is None:
            return
        draft = self._saving.draft
        draft.commit(self._saving.written.result, self._saving.keep)
        self._saving = None
        self._removing = self._thread.submit(_remove, draft.final.parent)

    def _fail(self) -> None:
        self._stop()
        for future in self._futures():
            with suppress(_AbandonedError):
                future.result()

    def _futures(self) -> list[Future[Any]]:
        written = [] if self._saving is None else [self._saving.written]
        return written if self._removing is None else [*written, self._removing]

    def _stop(self) -> None:
        self._abandoned.set()
        self._awaited.set()
        self._thread.shutdown(wait=True)

    def _pause(self) -> None:
        """Pause between blocks, unless another thread waits for this one."""
        worked = time.thread_time()
        self._awaited.wait(_PAUSE * (worked - self._worked))
        self._worked = worked
        if self._abandoned.is_set():
            raise _AbandonedError


def _remove(folder: Path) -> None:
    if ranks.is_first():
        remove_leftovers(folder)


def _give_way() -> None:
    # On Linux each thread has its own priority, like a process.
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # Never raise the priority of a process that has lowered its own, because that needs a privilege.
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


class SnapshotMemory:
    """Hold host copies of one rank's contents, taken between two steps so that training can continue."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, str], Tensor] = {}

    def take(self, step: int, contents: Contents) -> Contents:
        """Copy all tensors. Raises a `DivergedError` if a value is not finite.

        Args:
            step: number of steps done.
            contents: tensors on any device. Those with the names, shapes, and dtypes of the last call reuse its memory.

        Returns:
            The copies, valid until the next call.
        """
        state = json.loads(encode_state(step, contents.state))
        return Contents(
            dense={
                name: self._copy(step, (-1, name), name, tensor) for name, tensor in contents.dense.items()
            },
            shards=[
                replace(
                    shard,
                    tensors={
                        name: self._copy(step, (index, name), f"{shard.table}/{name}", tensor)
                        for name, tensor in shard.tensors.items()
                    },
                )
                for index, shard in enumerate(contents.shards)
            ],
            state=state,
        )

    def num_bytes(self) -> int:
        """Return the bytes of all copies."""
        return sum(copy.nbytes for copy in self._copies.values())

    def _copy(self, step: int, key: tuple[int, str], name: str, tensor: Tensor) -> Tensor:
        copy = self._copies.get(key)
        if copy is None or (copy.shape, copy.dtype) != (tensor.shape, tensor.dtype):
            copy = self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
        with torch.no_grad():
            for source, target in zip(_blocks(tensor), _blocks(copy), strict=True):
                target.copy_(source)
                if not is_finite(target):
                    raise DivergedError(refusal(step, name))
        return copy


def _blocks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return views of consecutive rows that together cover the tensor."""
    if tensor.dim() == 0:
        return (tensor,)
    return tensor.split(max(1, _BLOCK // max(1, tensor[:1].numel())))
