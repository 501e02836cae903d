"""The batches of all ranks together equal those of a single process."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.data.loader import Loader
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.schema import BagColumn, LabelColumn, Schema, TokenColumn
from tests.data.bags import bags_of


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("order", "world_size"), list(product(["time", "shuffled"], [1, 2, 3, 5])))
def test_ranks_read_every_row_once_and_in_the_batches_of_one_process(order, world_size, weighted):
    rows, batch_size = 41, 7
    ids = np.arange(rows, dtype=np.int32)[:, None] + 100 * np.arange(len(TOKEN_NAMES), dtype=np.int32)
    dense = np.arange(rows, dtype=np.float32)[:, None] + np.zeros(NUM_INTEGERS, np.float32)
    data = SimpleNamespace(
        features=Features(dense=dense, ids=ids),
        labels=(np.arange(rows) % 3 == 0).astype(np.int8),
        weights=np.arange(rows, dtype=np.float32) % 4 if weighted else None,
        preprocessing=SimpleNamespace(schema=CRITEO),
    )

    def batches(rank: int, count: int):
        loader = Loader(data, range(3, rows), batch_size, order=order, seed=1, rank=rank, world_size=count)  # pyright: ignore
        return list(loader.batches(2, first=1))

    (whole,) = [batches(0, 1)]
    of_ranks = list(zip(*(batches(rank, world_size) for rank in range(world_size)), strict=True))
    assert len(whole) == len(of_ranks) == 5
    for batch, parts in zip(whole, of_ranks, strict=True):
        counts = [part.share.count for part in parts]
        for name in ("dense", "labels", *(["weights"] if weighted else [])):
            found = [getattr(part, name)[:count] for part, count in zip(parts, counts, strict=True)]
            assert torch.equal(torch.cat(found), getattr(batch, name))
        for part in parts:
            np.testing.assert_array_equal(part.all_labels, batch.labels.numpy().astype(np.int8))
            assert len(part.dense) == len(part.labels) == max(part.share.count, 1)
            if weighted:
                np.testing.assert_array_equal(part.all_weights, batch.dense[:, 0].numpy() % 4)
                assert part.weight_of(3) == sum(part.all_weights[:3])
                relative = part.relative_weights(torch.float64)
                assert len(relative) == len(part.dense)
                expected = part.weights.double() * part.share.samples / sum(part.all_weights)
                torch.testing.assert_close(relative, expected, rtol=1e-15, atol=0)
            else:
                assert (part.weights, part.all_weights, part.weight_of(3)) == (None, None, 3)
            # Samples have one lookup per feature; padding has none.
            lengths = part.kjt.lengths().view(len(TOKEN_NAMES), -1)
            assert lengths.shape[1] == parts[0].share.padded
            assert torch.equal(lengths.sum(1), torch.full((len(TOKEN_NAMES),), part.share.count))
        for f, name in enumerate(TOKEN_NAMES):
            looked_up = torch.cat([part.kjt[name].values() for part in parts])
            assert torch.equal(looked_up, batch.dense[:, 0].long() + 100 * f)


@pytest.mark.parametrize(("order", "world_size"), list(product(["time", "shuffled"], [1, 2, 3, 5])))
def test_bags_of_all_ranks_are_those_of_the_rows_in_their_order(order, world_size):
    """Compare with lists: bag b of a feature has the values of sample b."""
    rng = np.random.default_rng(3)
    rows, batch_size = range(3, 41), 7
    lengths = rng.integers(21, size=(2, rows.stop)) * (rng.random((2, rows.stop)) < 0.7)
    lists = [[rng.integers(9, size=length).tolist() for length in of_feature] for of_feature in lengths]
    ids = np.arange(rows.stop, dtype=np.int32)[:, None]
    schema = Schema(
        label=LabelColumn(column="clicked"),
        tokens=(TokenColumn(column="shop"),),
        bags=(BagColumn(column="seen"), BagColumn(column="liked")),
    )
    data = SimpleNamespace(
        features=Features(
            dense=np.zeros((rows.stop, 0), np.float32), ids=ids, bags=tuple(map(bags_of, lists))
        ),
        labels=(np.arange(rows.stop) % 3 == 0).astype(np.int8),
        weights=None,
        preprocessing=SimpleNamespace(schema=schema),
    )
    loaders = [
        Loader(data, rows, batch_size, order=order, seed=1, rank=rank, world_size=world_size)  # pyright: ignore
        for rank in range(world_size)
    ]
    row_order = loaders[0].row_order(2)
    of_ranks = list(zip(*(loader.batches(2) for loader in loaders), strict=True))
    assert len(of_ranks) == 6
    for index, parts in enumerate(of_ranks):
        expected = row_order[index * batch_size : (index + 1) * batch_size]
        found = {name: [] for name in schema.features}
        for part in parts:
            assert part.kjt.keys() == ["shop", "seen", "liked"]
            for name in schema.features:
                jagged = part.kjt[name]
                bags = [bag.tolist() for bag in jagged.to_dense()]
                assert len(bags) == parts[0].share.padded
                assert not any(bags[part.share.count :]), "padding has no lookups"
                found[name] += bags[: part.share.count]
            # TorchRec computes the same values from the lengths alone.
            plain = KeyedJaggedTensor(part.kjt.keys(), part.kjt.values(), lengths=part.kjt.lengths())
            assert part.kjt.length_per_key() == plain.length_per_key()
            assert torch.equal(part.kjt.offsets(), plain.offsets())
        assert found == {
            "shop": [[row] for row in expected],
            "seen": [lists[0][row] for row in expected],
            "liked": [lists[1][row] for row in expected],
        }
