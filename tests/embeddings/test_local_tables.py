"""Rows of one rank: each way to look up sums the same rows, and an update is of the last lookup."""

import pytest
import torch
from torch import Tensor

from dlrm_adahessian.embeddings import local_tables
from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.optim.rows.adagrad import RowAdagradConfig

BATCH, FEATURES, DIM = 3, 2, 4


def new_tables() -> RowTables:
    """Two tables, the second read by one feature, as the first."""
    tables = RowTables(
        [5, 3],
        DIM,
        [0, 1],
        rule=RowAdagradConfig().build(),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    tables.weight.normal_(generator=torch.Generator().manual_seed(1))
    return tables


def one_hot() -> tuple[Tensor, Tensor]:
    return torch.tensor([4, 0, 4, 2, 2, 1]), torch.arange(BATCH * FEATURES + 1)


def test_one_row_a_bag_is_looked_up_as_bags_of_any_size_are(monkeypatch: pytest.MonkeyPatch):
    indices, offsets = one_hot()
    fast, general = new_tables(), new_tables()
    found = fast(indices, offsets)
    monkeypatch.setattr(local_tables, "_is_one_hot", lambda *_: False)
    assert torch.equal(general(indices, offsets), found)
    first, second = fast.split_embedding_weights()
    assert torch.equal(found[0], torch.cat([first[4], second[2]]))
    for tables in (fast, general):
        tables.apply_(torch.ones(BATCH * FEATURES, DIM), None, sampled=None, lr_scale=1.0, samples=BATCH)
    assert torch.equal(fast.weight, general.weight)
    untouched = [1, 2, 3, 5]
    assert torch.equal(fast.weight[untouched], new_tables().weight[untouched])
    assert not torch.equal(fast.weight, new_tables().weight)


def test_an_update_without_a_lookup_is_refused():
    tables = new_tables()
    with torch.no_grad():
        tables(*one_hot())
    with pytest.raises(RuntimeError, match="needs a lookup before it, got none"):
        tables.apply_(torch.ones(BATCH * FEATURES, DIM), None, sampled=None, lr_scale=1.0, samples=BATCH)
