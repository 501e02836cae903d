"""Plans predict the memory that rows use, cover each table once, and stay within the memory of each rank."""

import dataclasses
import json
import os
import subprocess
import sys
from typing import get_args

import pytest
import torch

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.planning.plan import RESERVED
from dlrm_adahessian.embeddings.planning.planner import PlanRequest
from dlrm_adahessian.embeddings.sharded_lookup import ShardedLookup
from dlrm_adahessian.kernels.row_sums import Hits
from dlrm_adahessian.model.config import DenseMemory
from dlrm_adahessian.optim.rows import (
    HessianAdagradConfig,
    RowAdaHessianConfig,
    RowConfig,
)
from tests.embeddings.planning.requests import MIB, ROWWISE, other, planned, refusal, request

RULES: dict[str, RowConfig] = {cfg.name: cfg() for cfg in get_args(RowConfig)}
RULES["hessian_adagrad rowwise"] = HessianAdagradConfig(rowwise=True)
RULES["adahessian rowwise"] = RowAdaHessianConfig(rowwise=True)
RULES["adahessian momentum"] = RowAdaHessianConfig(beta1=0.9)


@pytest.fixture(scope="module")
def alone():
    with init_process_group():
        yield


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", RULES)
def test_weights_and_state_are_counted_as_they_are_allocated(name: str):
    rule, rows = RULES[name].build(), (7, 1, 300)
    asked = request(*rows, rule=rule, ranks=1, device="cpu")
    lookup = ShardedLookup(asked.tables, rule=rule, device=torch.device("cpu"))
    held = lookup.shards()
    assert [shard.table for shard in lookup.plan.shards] == list(held)
    for shard in planned(asked).shards:
        tensors = held[shard.table].tensors
        assert shard.weights == tensors["weight"].nbytes
        assert shard.weights + shard.state == sum(tensor.nbytes for tensor in tensors.values())
        assert shard.scratch == torch.empty(shard.rows, dtype=torch.int32).nbytes


@pytest.mark.oracle
@pytest.mark.parametrize("name", RULES)
def test_rules_said_to_part_by_columns_are_those_whose_halves_update_alone(name: str):
    rule = RULES[name].build()
    generator = torch.Generator().manual_seed(1)
    weight, grad = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    curvature = torch.rand(5, 4, generator=generator, dtype=torch.float64)
    has = torch.tensor([True, True, False, True, True])

    def read(entries: torch.Tensor) -> torch.Tensor:
        return entries.mean(1, keepdim=True) if rule.cfg.pooled_curvature == "mean" else entries

    def updated(columns: slice) -> torch.Tensor:
        part = weight[:, columns].clone()
        state = rule.new_state(part)
        for _ in range(2):
            hits = Hits(
                rows=torch.arange(5),
                grad=grad[:, columns],
                count=torch.ones(5, dtype=torch.int64),
                curvature=read(curvature[:, columns]),
                squares=torch.ones(5, dtype=torch.int64),
                curvature_squares=has.long(),
            )
            rule.update_torch_(part, state, hits, lr_scale=1.0, samples=3)
        return part

    halves = torch.cat([updated(slice(0, 1)), updated(slice(1, 4))], 1)
    whole = updated(slice(0, 4))
    # Equal up to rounding, or different because the means are over other entries.
    assert torch.allclose(halves, whole, rtol=1e-12, atol=0) != rule.mixes_columns


@pytest.mark.parametrize("sharding", ["auto", "table", "row", "column", "replicate"])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_every_entry_is_held_once_or_by_every_rank(sharding: str, ranks: int):
    asked = request(1, 2, 5, 1000, sharding=sharding, ranks=ranks)
    shards = planned(asked).shards
    for spec in asked.tables:
        copies = torch.zeros(spec.num_rows, spec.dim)
        found = [shard for shard in shards if shard.table == spec.name]
        for shard in found:
            rows = slice(shard.first_row, shard.first_row + shard.rows)
            copies[rows, shard.first_column : shard.first_column + shard.columns] += 1
        replicated = {shard.sharding for shard in found} == {"replicate"}
        assert (copies == (ranks if replicated else 1)).all()
        if sharding != "auto" and ranks > 1:
            assert {shard.sharding for shard in found} == {sharding}
            assert len({shard.rank for shard in found}) == {"table": 1, "column": 2}.get(sharding, ranks)


def test_auto_replicates_tiny_tables_under_large_batches_and_never_cuts_columns_that_a_rule_mixes():
    kinds = {shard.table: shard.sharding for shard in planned(request(10, 100_000, batch=65_536)).shards}
    assert kinds["C1"] == "replicate" != kinds["C2"]
    large = [10**6] * 2
    assert {s.sharding for s in planned(request(*large, dim=128, ranks=16)).shards} == {"column"}
    assert "column" not in {
        s.sharding for s in planned(request(*large, dim=128, ranks=16, rule=ROWWISE)).shards
    }


def test_a_table_of_long_bags_has_a_rank_to_itself():
    asked = request(*[1000] * 3, ranks=2, sharding="table", batch=4096)

    def with_first(values: float) -> PlanRequest:
        first, *others = asked.tables
        return dataclasses.replace(asked, tables=[dataclasses.replace(first, values_per_bag=values), *others])

    first, second, third = (shard.rank for shard in planned(with_first(50.0)).shards)
    assert first != second == third
    assert planned(with_first(1.0)) == planned(asked)


@pytest.mark.parametrize("sharding", ["table", "row", "column", "replicate"])
def test_memory_of_a_step_grows_with_the_values_of_a_bag(sharding: str):
    asked = request(1000, sharding=sharding, batch=64, dim=32)
    for values, lookups in ((0.0, 0), (2.5, 160), (50.0, 3200)):
        table = dataclasses.replace(asked.tables[0], values_per_bag=values)
        for shard in planned(dataclasses.replace(asked, tables=[table])).shards:
            # A rank with a copy sees only its own samples, a quarter.
            own = 4 if sharding == "replicate" else 1
            of_bags, of_rows = 3 * 64 // own, 2 * min(lookups // own, shard.rows)
            assert shard.activations == 4 * 8 * lookups // own + 4 * shard.columns * (of_bags + of_rows)


def test_no_rank_is_filled_beyond_its_memory():
    asked = request(*[100_000] * 6, sharding="row")
    shards = planned(asked)
    need = max(shards.rank_bytes(rank) for rank in range(4))
    memory = int(need / (1 - RESERVED)) + 1
    assert planned(other(asked, memory_bytes=memory)).shards == shards.shards
    refusal(other(asked, memory_bytes=memory - 8))
    dense = DenseMemory(kept=3 * MIB, per_sample=MIB)
    with_dense = dataclasses.replace(asked, dense=dense)
    refusal(other(with_dense, memory_bytes=memory))
    plan = planned(other(with_dense, memory_bytes=memory + int(19.1 * MIB / (1 - RESERVED))))
    assert plan.dense_bytes == (3 + 64 // 4) * MIB
    assert max(plan.rank_bytes(rank) for rank in range(4)) == need + plan.dense_bytes


SAME_PLAN = """
import json, logging
logging.disable()
from tests.embeddings.planning.requests import planned, request
# Four columns are one shard, as good as a whole table.
print(json.dumps(planned(request(*[1_000_000] * 2, dim=4, ranks=16)).asdict()))
"""


@pytest.mark.campaign
def test_processes_that_order_their_sets_differently_plan_alike():
    # TorchRec's own enumerator splits columns in the first case and keeps tables whole in the second.
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SAME_PLAN],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "3")
    ]
    plans = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    plans.add(json.dumps(planned(request(*[1_000_000] * 2, dim=4, ranks=16)).asdict()) + "\n")
    assert len(plans) == 1
    assert {shard["sharding"] for shard in json.loads(plans.pop())["shards"]} == {"table"}
