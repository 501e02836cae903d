# pyright: basic
"""Load batches of prepared samples, and read ahead in a thread.

A batch depends only on (rows, batch size, order, seed, epoch, index). So the position of a run is its step, and the same
seed gives the same batches for any number of prefetched batches and any number of ranks. Each rank reads its own share.
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

_POOL_BATCHES = 64  # batches whose samples are shuffled together; reads stay contiguous within a batch


@dataclass(frozen=True)
class Batch:
    """The b samples of one rank, out of B in the global batch.

    A rank without samples gets a batch of zeros that affects no derivative, so that every rank does the same computation.

    Attributes:
        dense: (b, K) float32.
        kjt: F features (possibly 0), with one bag per sample and then empty bags, so that the stride is equal on all ranks.
        labels: (b,) float32, 0 or 1.
        share: position of these samples in the global batch.
        all_labels: (B,) int8, labels of all ranks, on the host.
        weights: (b,) float32, finite and at least 0; None for 1 each.
        all_weights: (B,) float32, weights of all ranks, on the host; None if `weights` is.
    """

    dense: Tensor
    kjt: KeyedJaggedTensor
    labels: Tensor
    share: Share
    all_labels: npt.NDArray[np.int8]
    weights: Tensor | None = None
    all_weights: npt.NDArray[np.float32] | None = None

    def weight_of(self, first_samples: int) -> float:
        """Return the sum of the weights of the first samples of the global batch; without weights their number."""
        if self.all_weights is None:
            return first_samples
        return float(self.all_weights[:first_samples].sum(dtype=np.float64))

    def relative_weights(self, dtype: torch.dtype) -> Tensor | None:
        """Return the weights (b,) divided by their mean in the global batch, zeros if that is 0; None without weights."""
        if self.weights is None:
            return None
        total = self.weight_of(self.share.samples)
        return self.weights.to(dtype) * (self.share.samples / total if total else 0.0)

    def weights_of_all_ranks(self, like: Tensor) -> Tensor | None:
        """Return the weights of all ranks, concatenated, with padding 0, (W * bags,); None without weights.

        Args:
            like: tensor that gives the dtype and the device.
        """
        if self.all_weights is None:
            return None
        weights = like.new_zeros(self.share.world_size * self.share.padded)
        weights[: self.share.samples] = torch.from_numpy(self.all_weights)
        return weights

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked memory, for asynchronous transfers to a GPU."""
        return replace(
            self,
            dense=self.dense.pin_memory(),
            kjt=self.kjt.pin_memory(),
            labels=self.labels.pin_memory(),
            weights=None if self.weights is None else self.weights.pin_memory(),
        )

    def to(self, device: torch.device) -> "Batch":
        """Return a copy on a device. From pinned memory, the transfer is asynchronous."""
        return replace(
            self,
            dense=self.dense.to(device, non_blocking=True),
            kjt=self.kjt.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
        )

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """Keep the memory until `stream` has finished its current work; see `torch.Tensor.record_stream`."""
        for part in (self.dense, self.kjt, self.labels, self.weights):
            if part is not None:
                part.record_stream(stream)


class Loader:
    """Loads one rank's share of the batches of each epoch. The last batch of an epoch may be smaller."""

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
        """Number of batches in one pass over the samples."""
        return -(-len(self._rows) // self._batch_size)

    def row_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the indices of the samples of an epoch, in the order of its batches, (rows,) int64."""
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
        """Yield the batches of an epoch, starting at number `first`. Errors of the reader thread are raised here."""
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
        """Return the indices of the samples at some positions of an epoch."""
        start = self._rows.start
        return slice(start + places.start, start + places.stop) if order is None else order[places]


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Move batches to a device, each while the caller works on the previous one."""
    if device.type == "cpu":
        yield from batches
        return
    side = torch.cuda.Stream(device)
    ahead: deque[tuple[Batch, torch.Event]] = deque()

    def take() -> Batch:
        batch, arrived = ahead.popleft()
        stream = torch.cuda.current_stream(device)
        stream.wait_event(arrived)
        batch.record_stream(stream)  # the allocator only knows the side stream
        return batch

    for batch in batches:
        with torch.cuda.stream(side):
            ahead.append((batch.to(device), side.record_event()))
        if len(ahead) > 1:
            yield take()
    while ahead:
        yield take()


def with_following(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Batch | None]]:
    """Yield each batch with the next one; None after the last."""
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
    """Build the batch of a rank. Arrays are copied.

    Args:
        names: names of the F categorical features.
        features: features of the b samples.
        labels: (B,) 0 or 1, labels of all ranks.
        share: position of the b samples among all B; None for all of them.
        weights: (B,) finite and at least 0, weights of all ranks; None for 1 each.

    Returns:
        The batch.
    """
    share = share or Share.whole(len(labels))
    count, bags = share.count, share.padded
    # NumPy, because torch would start threads for the reader too, which busy-wait and slow training.
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
    """Run an iterator in a thread, at most `depth` items ahead. Closing this generator stops the thread."""
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
        except BaseException as error:  # noqa: BLE001, raised in the consumer's thread
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
