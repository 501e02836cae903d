"""A plan as text and as JSON lists every table and rank, with consistent totals."""

import json
from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.embeddings.planning.plan import Plan, plan_text, write_plan
from tests.embeddings.planning.requests import planned, request


def test_text_names_every_table_and_every_rank():
    plan = planned(request(1, 2, 5, 1000, 10**6, ranks=8, sharding="row"))
    lines = plan_text(plan).splitlines()
    assert lines[0] == "5 tables on 8 cuda ranks of 1,024.0 GiB, 8 per host, batch size 64"
    assert [line.split() for line in lines[3:6]] == [
        ["C1", "1", "by", "rows", "0"],
        ["C2", "2", "by", "rows", "0-1"],
        ["C3", "5", "by", "rows", "0-4"],
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


def test_a_plan_without_tables_lists_what_the_ranks_need():
    plan = planned(request(ranks=2, dense=2**20))
    lines = plan_text(plan).splitlines()
    assert lines[0] == "no tables on 2 cuda ranks of 1,024.0 GiB, 2 per host, batch size 64"
    assert len(lines) == 4  # a blank line, a heading, and the ranks
    assert lines[-1].split()[:8] == ["0", "0", "B", "0", "B", "0", "B", "0"]
    assert lines[-1].endswith("1.0 MiB     1.0 MiB        0.0%  0-1")
    found = plan.asdict()
    assert found["shards"] == []
    assert [(entry["tables"], entry["total_bytes"]) for entry in found["ranks"]] == [(0, 2**20)] * 2
