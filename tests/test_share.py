"""Shares of a batch: together they are the batch, in order, each sample once."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlrm_adahessian.data.loader import Loader
from dlrm_adahessian.data.schema import NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.distributed.share import Share


@given(
    samples=st.integers(1, 50),
    world_size=st.integers(1, 9),
    extra=st.integers(0, 3),
    first=st.integers(0, 60),
)
def test_shares_are_the_batch_in_order(samples: int, world_size: int, extra: int, first: int):
    size = -(-samples // world_size) + extra
    shares = [
        Share(samples=samples, rank=rank, world_size=world_size, size=size) for rank in range(world_size)
    ]
    held = [sample for share in shares for sample in range(share.first, share.first + share.count)]
    assert held == list(range(samples))
    assert {share.padded for share in shares} == {max(share.count for share in shares)}
    # One after another, padding included, the samples stand at their own numbers: the owners of rows rely on it.
    for share in shares:
        assert share.count == 0 or share.first == share.rank * share.padded
    assert [share.count_among(first) for share in shares] == [
        sum(sample < first for sample in range(share.first, share.first + share.count)) for share in shares
    ]


@pytest.mark.parametrize(("order", "world_size"), list(product(["time", "shuffled"], [1, 2, 3, 5])))
def test_ranks_read_every_row_once_and_in_the_batches_of_one_process(order, world_size):
    rows, batch_size = 41, 7
    ids = np.arange(rows, dtype=np.int32)[:, None] + 100 * np.arange(len(TOKEN_NAMES), dtype=np.int32)
    dense = np.arange(rows, dtype=np.float32)[:, None] + np.zeros(NUM_INTEGERS, np.float32)
    data = SimpleNamespace(dense=dense, ids=ids, labels=(np.arange(rows) % 3 == 0).astype(np.int8))

    def batches(rank: int, count: int):
        loader = Loader(data, range(3, rows), batch_size, order=order, seed=1, rank=rank, world_size=count)  # pyright: ignore
        return list(loader.batches(2, first=1))

    (whole,) = [batches(0, 1)]
    of_ranks = list(zip(*(batches(rank, world_size) for rank in range(world_size)), strict=True))
    assert len(whole) == len(of_ranks) == 5
    for batch, parts in zip(whole, of_ranks, strict=True):
        counts = [part.share.count for part in parts]
        for name in ("dense", "labels"):
            found = [getattr(part, name)[:count] for part, count in zip(parts, counts, strict=True)]
            assert torch.equal(torch.cat(found), getattr(batch, name))
        for part in parts:
            np.testing.assert_array_equal(part.all_labels, batch.labels.numpy().astype(np.int8))
            assert len(part.dense) == len(part.labels) == max(part.share.count, 1)
            # Real rows have one lookup per feature, padding has none.
            lengths = part.kjt.lengths().view(len(TOKEN_NAMES), -1)
            assert lengths.shape[1] == parts[0].share.padded
            assert torch.equal(lengths.sum(1), torch.full((len(TOKEN_NAMES),), part.share.count))
        for f, name in enumerate(TOKEN_NAMES):
            looked_up = torch.cat([part.kjt[name].values() for part in parts])
            assert torch.equal(looked_up, batch.dense[:, 0].long() + 100 * f)
