"""Checkpoints that a thread writes while training goes on.

    begin      all ranks, between two steps: copy what is to be saved, make the folder
    a thread   each rank: write, hash and flush its copies
    proceed    all ranks, between later steps: once all have written, the first one commits, as writer.py does
    a thread   the first rank: remove the checkpoints that were replaced

When all have written they learn from the vote that they take in every step anyhow. The commit is on the main thread
of the first rank: the order of what is on disk - files, manifest, name, `latest` - is that of a synchronous save, and so is
what a kill leaves.

One checkpoint is written at a time: there is one copy, and a disk slower than the checkpoints come would only fall
behind further. So the next one waits for it. Its copies take the memory of the last ones: new memory costs its page
faults, three to twenty times the time of the copy itself (docs/checkpoints.md).
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
"""What a rank's thread does; the largest of all ranks' is what to act on."""
# Of 19. The thread takes what the steps leave. Further down it would starve where more processes than cores compute, and
# for that long a thread that was put aside while it held the interpreter's lock would hold up the steps too.
_NICE = 10
# Seconds that the thread pauses for each second of processor time: what it takes from the steps is spread over more of them.
_PAUSE = 40.0
_BLOCK = 1 << 20  # entries copied and then looked through while they are in the cache


class _AbandonedError(Exception):
    """The thread was told to stop."""


@dataclass(frozen=True, kw_only=True)
class _Saving:
    draft: Draft
    keep: int
    written: Future[dict[str, Entry]]


class BackgroundSaver:
    """Writes one checkpoint at a time while training goes on.

    All ranks call `begin`, `proceed` and `finish`, at the same steps; leaving the context abandons what is not committed.
    """

    def __init__(self) -> None:
        self.memory = SnapshotMemory()
        self._thread = ThreadPoolExecutor(1, "checkpoint", initializer=_give_way)
        self._abandoned, self._awaited = threading.Event(), threading.Event()
        self._worked = 0.0  # processor time of the thread at its last pause
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
        """Return what this rank's thread does: `IDLE`, `BUSY` or `FAILED`."""
        futures = self._futures()
        if any(future.done() and future.exception() for future in futures):
            return FAILED
        return IDLE if all(future.done() for future in futures) else BUSY

    def begin(self, folder: Path, contents: Contents, *, step: int, fingerprint: str, keep: int) -> None:
        """Copy what is to be saved and begin to write it, after what is still being written; see `writer.save`."""
        self.finish()
        copies: list[Contents] = []
        ranks.agreed(lambda: copies.append(self.memory.take(step, contents)))
        draft = Draft(folder, step, fingerprint, contents.shards)
        self._awaited.clear()
        written = self._thread.submit(lambda: draft.write(copies[0], self._pause))
        self._saving = _Saving(draft=draft, keep=keep, written=written)

    def proceed(self, status: int) -> None:
        """Commit what all ranks have written, if they have; what a rank's thread raised is raised here.

        Args:
            status: the largest of all ranks', as one vote told them.
        """
        if status == FAILED:
            ranks.agreed(self._fail)
        elif status == IDLE:
            self._commit()

    def finish(self) -> None:
        """Wait for what is being written, and commit it; then for what is being removed."""
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
        """Rest, unless somebody waits for the thread; called between blocks."""
        worked = time.thread_time()
        self._awaited.wait(_PAUSE * (worked - self._worked))
        self._worked = worked
        if self._abandoned.is_set():
            raise _AbandonedError


def _remove(folder: Path) -> None:
    if ranks.is_first():
        remove_leftovers(folder)


def _give_way() -> None:
    # Linux knows threads as processes, and each has its own priority.
    if sys.platform == "linux":
        thread = threading.get_native_id()
        # Of a process that has given way itself, further: to take back needs a right.
        os.setpriority(os.PRIO_PROCESS, thread, max(_NICE, os.getpriority(os.PRIO_PROCESS, thread)))


class SnapshotMemory:
    """Host memory for copies of what one rank saves, taken between two steps so that training can go on."""

    def __init__(self) -> None:
        self._copies: dict[tuple[int, str], Tensor] = {}

    def take(self, step: int, contents: Contents) -> Contents:
        """Copy everything; what is not finite is refused with a `DivergedError`.

        Args:
            step: steps done.
            contents: tensors on any device, with the names, shapes and dtypes of the last call, which are otherwise new
                memory.

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
        """Return what is held."""
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
    """Return views of consecutive rows, which together are the tensor."""
    if tensor.dim() == 0:
        return (tensor,)
    return tensor.split(max(1, _BLOCK // max(1, tensor[:1].numel())))
