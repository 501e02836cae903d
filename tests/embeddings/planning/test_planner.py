"""Plans: memory against what the rows really take, shards that cover each table once, refusals whose remedies hold."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.config import TableSpec
from dlrm_adahessian.embeddings.planning.plan import RESERVED, Machines, Plan, plan_text, write_plan
from dlrm_adahessian.embeddings.planning.planner import PlanRequest, mixes_columns
from dlrm_adahessian.embeddings.planning.remedies import plan_or_refuse
from dlrm_adahessian.embeddings.sharded_lookup import ShardedLookup
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.kernels.row_sums import Hits
from dlrm_adahessian.model.config import DenseMemory
from dlrm_adahessian.optim.base import RowRule
from dlrm_adahessian.optim.rows import (
    HessianAdagradConfig,
    RowAdagradConfig,
    RowAdaHessianConfig,
    RowConfig,
)

RULES: dict[str, RowConfig] = {cfg.name: cfg() for cfg in get_args(RowConfig)}
RULES["hessian_adagrad rowwise"] = HessianAdagradConfig(rowwise=True)
RULES["adahessian rowwise"] = RowAdaHessianConfig(rowwise=True)
RULES["adahessian momentum"] = RowAdaHessianConfig(beta1=0.9)
ENTRYWISE = RowAdagradConfig().build()
ROWWISE = HessianAdagradConfig(rowwise=True).build()
MIB = 2**20


def request(
    *rows: int,
    rule: RowRule = ENTRYWISE,
    ranks: int = 4,
    memory: int = 2**40,
    sharding: str = "auto",
    dim: int = 16,
    batch: int = 64,
    device: str = "cuda",
    dense: int = 0,
) -> PlanRequest:
    return PlanRequest(
        tables=[
            TableSpec(name=f"C{place}", num_rows=n, dim=dim, sharding=sharding)  # pyright: ignore
            for place, n in enumerate(rows, 1)
        ],
        rule=rule,
        machines=Machines(ranks=ranks, ranks_per_host=min(ranks, 8), memory_bytes=memory, device=device),
        batch_size=batch,
        dense=DenseMemory(kept=dense),
    )


def planned(asked: PlanRequest) -> Plan:
    return plan_or_refuse(asked)[0]


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
                curvature=read(curvature[:, columns]),
                has_curvature=has,
            )
            rule.update_torch_(part, state, hits, lr_scale=1.0, samples=3)
        return part

    halves = torch.cat([updated(slice(0, 1)), updated(slice(1, 4))], 1)
    whole = updated(slice(0, 4))
    # Equal up to rounding, or as different as means over other entries are.
    assert torch.allclose(halves, whole, rtol=1e-12, atol=0) != mixes_columns(rule)


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
    large = [10**6] * 8
    assert {s.sharding for s in planned(request(*large, dim=128, ranks=64)).shards} == {"column"}
    assert "column" not in {
        s.sharding for s in planned(request(*large, dim=128, ranks=64, rule=ROWWISE)).shards
    }


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
from tests.embeddings.planning.test_planner import planned, request
# Four columns are one shard, as good as a whole table.
print(json.dumps(planned(request(*[1_000_000] * 8, dim=4, ranks=16)).asdict()))
"""


def test_processes_that_order_their_sets_differently_plan_alike():
    plans = {
        subprocess.run(
            [sys.executable, "-c", SAME_PLAN],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(plans) == 1
    assert {shard["sharding"] for shard in json.loads(plans.pop())["shards"]} == {"table"}


def other(asked: PlanRequest, **changes: object) -> PlanRequest:
    machines = {k: v for k, v in changes.items() if k in ("ranks", "memory_bytes")}
    rest = {k: v for k, v in changes.items() if k in ("batch_size", "rule")}
    tables = {k: v for k, v in changes.items() if k in ("dim", "sharding")}
    return dataclasses.replace(
        asked,
        machines=dataclasses.replace(asked.machines, **machines),  # pyright: ignore
        tables=[dataclasses.replace(t, **tables) for t in asked.tables],  # pyright: ignore
        **rest,  # pyright: ignore
    )


def refusal(asked: PlanRequest) -> str:
    with pytest.raises(UsageError, match="must fit into its memory") as refused:
        plan_or_refuse(asked)
    return str(refused.value)


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, text
    return int(found[1].replace(",", ""))


def test_what_would_fit_fits_and_no_less_does():
    rule = RowAdaHessianConfig().build()
    asked = request(*[20_000_000] * 3, rule=rule, memory=2**31, ranks=2, batch=20_000)
    message = refusal(asked)
    assert "2 ranks" in message
    ranks = number(r"fit: (\d+) ranks", message)
    planned(other(asked, ranks=ranks))
    refusal(other(asked, ranks=ranks - 2))
    dim = number(r"embeddings of (\d+) numbers", message)
    planned(other(asked, dim=dim))
    refusal(other(asked, dim=2 * dim))
    gib = number(r"([\d,]+) GiB a rank", message)
    planned(other(asked, memory_bytes=gib * 2**30))
    refusal(other(asked, memory_bytes=(gib - 1) * 2**30))
    assert "a batch of" not in message.partition("would fit")[2]


def test_a_state_per_row_is_offered_where_it_helps():
    cfg = RowAdaHessianConfig(lr=0.5)
    asked = request(*[4_000_000] * 3, rule=cfg.build(), memory=700 * MIB, ranks=2, sharding="column")
    assert "(--optim.rows.rowwise)" in refusal(asked)
    planned(other(asked, rule=RowAdaHessianConfig(lr=0.5, rowwise=True).build(), sharding="auto"))


def test_a_smaller_batch_and_auto_are_offered_where_they_help():
    asked = request(*[1000] * 4, ranks=2, memory=200 * MIB, batch=1_000_000, sharding="row")
    batch = number(r"a batch of ([\d,]+)(?!.*a batch)", refusal(asked))
    planned(other(asked, batch_size=batch))
    refusal(other(asked, batch_size=2 * batch))
    assert batch < 1_000_000
    asked = request(600_000, ranks=2, memory=40 * MIB, sharding="table", rule=ROWWISE)
    assert "sharding auto" in refusal(asked)


@pytest.mark.parametrize("memory", [1000, MIB])
def test_a_model_that_fits_nowhere_near_is_refused_without_false_hope(memory: int):
    message = refusal(request(10**12, memory=memory, ranks=1, dense=2 * MIB))
    assert "would fit: nothing that was tried" in message


def test_column_shards_of_a_rule_with_a_state_per_row_are_refused():
    asked = request(5, 6, rule=ROWWISE, sharding="column")
    with pytest.raises(
        UsageError, match=r"hessian_adagrad keeps a mean .* for all tables; choose sharding row"
    ):
        plan_or_refuse(asked)
    one = dataclasses.replace(
        asked, tables=[asked.tables[0], dataclasses.replace(asked.tables[1], sharding="row")]
    )
    with pytest.raises(UsageError, match="for C1; choose"):
        plan_or_refuse(one)
    assert {shard.sharding for shard in planned(other(asked, ranks=1)).shards} == {"table"}
    assert "column" not in {shard.sharding for shard in planned(other(asked, sharding="auto")).shards}


def test_text_names_every_table_and_every_rank():
    plan = planned(request(1, 2, 5, 1000, 10**6, ranks=8, sharding="row"))
    lines = plan_text(plan).splitlines()
    assert lines[0] == "5 tables on 8 cuda ranks of 1,024.0 GiB, 8 a host, batch 64"
    assert [line.split() for line in lines[3:6]] == [
        ["C1", "1", "rows", "cut", "0"],
        ["C2", "2", "rows", "cut", "0-1"],
        ["C3", "5", "rows", "cut", "0-4"],
    ]
    assert lines[-1].endswith("  5-7")
    assert len(lines) == 3 + 5 + 2 + 4  # ranks 0, 1, 2-4 and 5-7


def test_plan_json_holds_the_shards_and_their_sums(tmp_path: Path):
    plan = planned(request(1, 2, 5, 1000, ranks=2, device="cpu"))
    write_plan(tmp_path / "plan.json", plan)
    found = json.loads((tmp_path / "plan.json").read_text())
    assert len(found["shards"]) == len(plan.shards)
    for entry in found["ranks"]:
        mine = [shard for shard in found["shards"] if shard["rank"] == entry["rank"]]
        parts = ("weights", "state", "scratch", "activations")
        for part in parts:
            assert entry[f"{part}_bytes"] == sum(shard[part] for shard in mine)
        assert entry["total_bytes"] == sum(entry[f"{part}_bytes"] for part in parts) + found["dense_bytes"]
        assert entry["tables"] == len({shard["table"] for shard in mine})


def rows_of(plan: Plan) -> Sequence[int]:
    return [sum(shard.rows for shard in shards) for shards in plan.by_rank.values()]


def test_rank_without_shards_is_listed():
    plan = planned(request(10, ranks=4, sharding="table"))
    assert sorted(rows_of(plan)) == [0, 0, 0, 10]
    assert [entry["shards"] for entry in plan.asdict()["ranks"]].count(0) == 3
