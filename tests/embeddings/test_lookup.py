"""The lookup of a model without tables returns the right shape and does nothing else."""

import pytest
import torch
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.embeddings.lookup import NoTables
from dlrm_adahessian.embeddings.sharded_lookup import ShardedLookup
from tests.embeddings.planning.requests import ENTRYWISE, planned, request

CPU = torch.device("cpu")


def lookups(names: list[str], bags: int) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=names,
        values=torch.zeros(0, dtype=torch.int64),
        lengths=torch.zeros(len(names) * bags, dtype=torch.int32),
        stride=bags,
    )


@pytest.fixture
def lookup() -> NoTables:
    return NoTables(planned(request(ranks=1, dense=100)), 3, device=CPU, dtype=torch.float64)


def test_as_many_samples_come_back_as_bags_go_in_and_none_has_an_embedding(lookup: NoTables):
    for bags in (1, 5):
        kjt = lookups([], bags)
        lookup.send(kjt)
        pooled = lookup(kjt)
        assert (pooled.shape, pooled.dtype, pooled.device) == ((bags, 0, 3), torch.float64, CPU)
        lookup.push(pooled, pooled, None, lr_scale=1.0, samples=bags)


def test_there_is_nothing_to_save_and_the_plan_says_so(lookup: NoTables):
    assert lookup.shards() == lookup.tables() == lookup.row_states() == {}
    assert lookup.shards_to_save() == []
    assert lookup.describe_plan().startswith("no tables on 1 cuda ranks")


def test_features_without_tables_are_refused(lookup: NoTables):
    with pytest.raises(ValueError, match=r"must match the tables in order: expected \[\], got \['C1'\]"):
        lookup(lookups(["C1"], 2))


def test_a_sharded_lookup_without_tables_is_refused():
    with pytest.raises(ValueError, match="at least one table. Use NoTables"):
        ShardedLookup([], rule=ENTRYWISE, device=CPU)
