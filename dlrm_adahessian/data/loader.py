# pyright: basic
"""Batches of prepared rows, read ahead by a thread.

A batch is determined by (rows, batch size, order, seed, epoch, index) alone, so the position of a run is its step,
and the same seed gives the same batches however far the thread is ahead.
"""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.data.prepared import PreparedData
from dlrm_adahessian.data.schema import TOKEN_NAMES

_POOL_BATCHES = 64  # batches whose rows are shuffled together; reads stay runs of one batch


@dataclass(frozen=True)
class Batch:
    """B rows.

    Attributes:
        dense: (B, 13) float32.
        kjt: 26 features of B bags with one row each.
        labels: (B,) float32, 0 or 1.
    """

    dense: Tensor
    kjt: KeyedJaggedTensor
    labels: Tensor

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, from which a GPU reads while the host goes on."""
        return Batch(self.dense.pin_memory(), self.kjt.pin_memory(), self.labels.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on a device; from pinned memory the host does not wait for it."""
        return Batch(
            self.dense.to(device, non_blocking=True),
            self.kjt.to(device, non_blocking=True),
            self.labels.to(device, non_blocking=True),
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until `stream` has done what it has been given so far."""
        for part in (self.dense, self.kjt, self.labels):
            part.record_stream(stream)


class Loader:
    """Batches of a range of rows, epoch by epoch; the last batch of an epoch may be smaller."""

    def __init__(
        self,
        data: PreparedData,
        rows: range,
        batch_size: int,
        *,
        order: Literal["time", "shuffled"] = "time",
        seed: int = 0,
        prefetch: int = 4,
        pinned: bool = False,
    ) -> None:
        self._data, self._rows, self._batch_size = data, rows, batch_size
        self._order, self._seed, self._prefetch, self._pinned = order, seed, prefetch, pinned

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the rows."""
        return -(-len(self._rows) // self._batch_size)

    def row_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the row numbers of an epoch in the order of its batches, (rows,) int64."""
        rows = np.arange(self._rows.start, self._rows.stop)
        if self._order == "time":
            return rows
        rng = np.random.default_rng([self._seed, epoch])
        cuts = np.arange(self._batch_size, len(rows), self._batch_size)
        runs = np.split(rows, cuts)
        shuffled = [runs[i] for i in rng.permutation(len(runs))]
        pools = (shuffled[at : at + _POOL_BATCHES] for at in range(0, len(runs), _POOL_BATCHES))
        return np.concatenate([rng.permutation(np.concatenate(pool)) for pool in pools])

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `first` on; an error of the reading thread is raised here."""
        order = None if self._order == "time" else self.row_order(epoch)
        numbers = range(first, self.batches_per_epoch)
        with closing(_read_ahead((self._batch(order, i) for i in numbers), self._prefetch)) as batches:
            yield from batches

    def _batch(self, order: npt.NDArray[np.int64] | None, index: int) -> Batch:
        begin = index * self._batch_size
        end = min(begin + self._batch_size, len(self._rows))
        start = self._rows.start
        rows = slice(start + begin, start + end) if order is None else order[begin:end]
        batch = make_batch(
            self._data.dense[rows], self._data.ids[rows], self._data.labels[rows].astype(np.float32)
        )
        return batch.pin_memory() if self._pinned else batch


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Move batches to a device, each while the one before it is worked on."""
    if device.type == "cpu":
        yield from batches
        return
    side = torch.cuda.Stream(device)
    ahead: deque[tuple[Batch, torch.Event]] = deque()

    def take() -> Batch:
        batch, arrived = ahead.popleft()
        stream = torch.cuda.current_stream(device)
        stream.wait_event(arrived)
        batch.record_stream(stream)  # the allocator knows of the side stream only
        return batch

    for batch in batches:
        with torch.cuda.stream(side):
            ahead.append((batch.to(device), side.record_event()))
        if len(ahead) > 1:
            yield take()
    while ahead:
        yield take()


def make_batch(
    dense: npt.NDArray[np.float32], ids: npt.NDArray[np.int32], labels: npt.NDArray[np.float32]
) -> Batch:
    """Build a batch from (B, 13) float32, (B, 26) int32 within the tables, (B,) float32; copies."""
    rows = len(labels)
    values = np.ascontiguousarray(ids.T, dtype=np.int64).reshape(-1)
    bags = rows * len(TOKEN_NAMES)
    kjt = KeyedJaggedTensor(
        keys=list(TOKEN_NAMES),
        values=torch.from_numpy(values),
        lengths=torch.ones(bags, dtype=torch.int32),
        offsets=torch.arange(bags + 1, dtype=torch.int32),
        stride=rows,
        length_per_key=[rows] * len(TOKEN_NAMES),
    )
    return Batch(torch.from_numpy(np.array(dense)), kjt, torch.from_numpy(labels))


def _read_ahead(made: Iterator[Batch], depth: int) -> Generator[Batch]:
    """Run an iterator in a thread, at most `depth` items ahead; closing this one stops the thread."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for batch in made:
                if not put(batch):
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001, handed to the thread that asks
            put(error)

    thread = threading.Thread(target=run, name="loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
