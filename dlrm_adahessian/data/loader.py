# pyright: basic
"""Batches of prepared rows, read ahead by a thread.

A batch is determined by (rows, batch size, order, seed, epoch, index) alone, so the position of a run is its step,
and the same seed gives the same batches however far the thread is ahead, and over however many ranks they are spread.
Each rank reads its own share.
"""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.distributed.ranks import Share

_POOL_BATCHES = 64  # batches whose rows are shuffled together; reads stay runs of one batch


@dataclass(frozen=True)
class Batch:
    """The b rows of one rank, out of B.

    A rank without rows has one of zeros, whose derivatives count nothing, so that it computes as the others do.

    Attributes:
        dense: (b, K) float32.
        kjt: F features, or none, with a bag per row, of any number of rows of its table; then empty bags, up to as many on
            every rank, which its stride says.
        labels: (b,) float32, 0 or 1.
        share: which rows of the batch these are.
        all_labels: (B,) int8, of the rows of all ranks, on the host.
        weights: (b,) float32, finite and at least 0; None for 1 each.
        all_weights: (B,) float32, of the rows of all ranks, on the host; None as `weights`.
    """

    dense: Tensor
    kjt: KeyedJaggedTensor
    labels: Tensor
    share: Share
    all_labels: npt.NDArray[np.int8]
    weights: Tensor | None = None
    all_weights: npt.NDArray[np.float32] | None = None

    def weight_of(self, first_samples: int) -> float:
        """Return the sum of the weights of the first rows of the global batch; without weights their number."""
        if self.all_weights is None:
            return first_samples
        return float(self.all_weights[:first_samples].sum(dtype=np.float64))

    def relative_weights(self, dtype: torch.dtype) -> Tensor | None:
        """Return the weights (b,) over their mean in the global batch, zeros where that has no weight; None without."""
        if self.weights is None:
            return None
        total = self.weight_of(self.share.samples)
        return self.weights.to(dtype) * (self.share.samples / total if total else 0.0)

    def weights_of_all_ranks(self, like: Tensor) -> Tensor | None:
        """Return the weights of the ranks' batches one after another, 0 in the padding, (W * bags,); None without.

        Args:
            like: of whose type and device they are.
        """
        if self.all_weights is None:
            return None
        weights = like.new_zeros(self.share.world_size * self.share.padded)
        weights[: self.share.samples] = torch.from_numpy(self.all_weights)
        return weights

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, from which a GPU reads while the host goes on."""
        return replace(
            self,
            dense=self.dense.pin_memory(),
            kjt=self.kjt.pin_memory(),
            labels=self.labels.pin_memory(),
            weights=None if self.weights is None else self.weights.pin_memory(),
        )

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on a device; from pinned memory the host does not wait for it."""
        return replace(
            self,
            dense=self.dense.to(device, non_blocking=True),
            kjt=self.kjt.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until `stream` has done what it has been given so far."""
        for part in (self.dense, self.kjt, self.labels, self.weights):
            if part is not None:
                part.record_stream(stream)


class Loader:
    """One rank's share of the batches of a range of rows, epoch by epoch; the last batch of an epoch may be smaller."""

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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._data, self._rows, self._batch_size = data, rows, batch_size
        self._order, self._seed, self._prefetch, self._pinned = order, seed, prefetch, pinned
        self._rank, self._world_size = rank, world_size

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
        share = Share(
            samples=end - begin,
            rank=self._rank,
            world_size=self._world_size,
            size=-(-self._batch_size // self._world_size),
        )
        ours = slice(begin + share.first, begin + share.first + share.count)
        batch = make_batch(
            self._data.preprocessing.schema.features,
            self._data.features[self._at(order, ours)],
            self._data.labels[self._at(order, slice(begin, end))],
            share,
            None if self._data.weights is None else self._data.weights[self._at(order, slice(begin, end))],
        )
        return batch.pin_memory() if self._pinned else batch

    def _at(self, order: npt.NDArray[np.int64] | None, places: slice) -> npt.NDArray[np.int64] | slice:
        """Return the rows at places of an epoch."""
        start = self._rows.start
        return slice(start + places.start, start + places.stop) if order is None else order[places]


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


def with_following(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Batch | None]]:
    """Yield each batch and the one after it, None after the last."""
    batches = iter(batches)
    batch = next(batches, None)
    while batch is not None:
        following = next(batches, None)
        yield batch, following
        batch = following


def make_batch(
    names: Sequence[str],
    features: Features,
    labels: npt.NDArray[np.int8],
    share: Share | None = None,
    weights: npt.NDArray[np.float32] | None = None,
) -> Batch:
    """Build a rank's batch; copies.

    Args:
        names: of the F categorical features.
        features: of the b rows.
        labels: (B,) 0 or 1, of all ranks.
        share: which b of the B rows these are; None where they are all.
        weights: (B,) finite and at least 0, of all ranks; None for 1 each.

    Returns:
        The batch.
    """
    share = share or Share.whole(len(labels))
    count, bags = share.count, share.padded
    # In NumPy: torch would start threads for the reader too, which then wait busily beside those that train.
    tokens = features.ids.shape[1]
    lengths = np.zeros((len(names), bags), np.int32)
    lengths[:tokens, :count] = 1
    for place, bag in enumerate(features.bags, tokens):
        lengths[place, :count] = bag.lengths
    offsets = np.zeros(lengths.size + 1, np.int32)
    np.cumsum(lengths, dtype=np.int32, out=offsets[1:])
    looked_up = [features.ids.T.reshape(-1), *(bag.values for bag in features.bags)]
    kjt = KeyedJaggedTensor(
        keys=list(names),
        values=torch.from_numpy(np.concatenate(looked_up, dtype=np.int64)),
        lengths=torch.from_numpy(lengths.reshape(-1)),
        offsets=torch.from_numpy(offsets),
        stride=bags,
        length_per_key=[count] * tokens + [len(bag.values) for bag in features.bags],
    )
    dense = np.array(features.dense)
    own_labels = labels[share.own].astype(np.float32)
    own_weights = None if weights is None else weights[share.own].astype(np.float32)
    if count == 0:
        dense, own_labels = np.zeros((1, dense.shape[1]), np.float32), np.zeros(1, np.float32)
        own_weights = None if weights is None else np.zeros(1, np.float32)
    return Batch(
        dense=torch.from_numpy(dense),
        kjt=kjt,
        labels=torch.from_numpy(own_labels),
        share=share,
        all_labels=np.array(labels),
        weights=None if own_weights is None else torch.from_numpy(own_weights),
        all_weights=None if weights is None else np.array(weights),
    )


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
