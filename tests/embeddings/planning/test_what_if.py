"""The command plan: published sizes, one JSON document, refusals; and its estimates against a state that trains."""

import ctypes
import dataclasses
import gc
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm_adahessian.config import RunConfig, asdict, from_dict, load
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.schema import NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.planning.what_if import PlanConfig, planned, table_sizes
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.train.step import TrainState, train_step

CPU = torch.device("cpu")


def config(optimizer: str = "hybrid", **changes: object) -> PlanConfig:
    return PlanConfig(optimizer=optimizer, optim=load(None, optimizer).optim, **changes)  # pyright: ignore


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dlrm_adahessian", "plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_published_sizes_are_those_of_26_tables():
    kaggle, large = table_sizes("kaggle"), table_sizes("criteo_1tb")
    # Total rows as facebookresearch/dlrm and MLPerf have them for Kaggle and for 1 TB modulo 40 million.
    assert (len(kaggle.rows), sum(kaggle.rows)) == (26, 33_762_577)
    assert (len(large.rows), sum(large.rows), max(large.rows)) == (26, 187_767_399, 39_979_771)
    assert (kaggle.model.embedding_dim, large.model.embedding_dim) == (16, 128)


@pytest.mark.parametrize("hosts", [1, 4, 16])
def test_the_1_tb_tables_fit_on_gpus_of_80_gib(hosts: int):
    plan = planned(config(tables="criteo_1tb", hosts=hosts))
    assert plan.machines.ranks == 8 * hosts
    whole = {shard.table: shard for shard in plan.shards if shard.sharding != "replicate"}
    copies = {shard.table: shard for shard in plan.shards if shard.sharding == "replicate"}
    assert len(whole) + len(copies) == 26
    weights = sum(s.weights for s in plan.shards) - (8 * hosts - 1) * sum(s.weights for s in copies.values())
    assert weights == 187_767_399 * 128 * 4
    assert max(plan.rank_bytes(rank) for rank in range(8 * hosts)) < 0.85 * 80 * 2**30


def test_standard_output_is_one_json_document():
    done = run("--json", "--optimizer", "adagrad", "--embedding-dim", "32", "--hosts", "2")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["asked"] == {"tables": "kaggle", "optimizer": "adagrad", "sharding": "auto"}
    assert found["machines"]["ranks"] == len(found["ranks"]) == 16
    shards = {(s["table"], s["rank"]): s for s in found["shards"]}
    assert all(s["state"] == s["weights"] == s["rows"] * s["columns"] * 4 for s in shards.values())


def test_the_file_of_the_tables_and_the_text(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text("rows = [10, 2000]\n[model]\nembedding_dim = 8\nbottom = [4]\ntop = [4]\n")
    done = run("--tables", str(path), "--gpus-per-host", "2", "--device", "cpu", "--memory-gib", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 tables on 2 cpu ranks of 1.0 GiB, 2 a host, batch 65,536\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--tables", "criteo_1tb", "--gpus-per-host", "1"],
            r"59\.\d of 80.0 GiB .* 26 tables of 89\.5 GiB, .* would fit: 2 ranks; .*64 numbers",
        ),
        (["--sharding", "column"], "column shards need a rule that updates each entry by itself"),
        (["--optimizer", "hybird"], "did you mean hybrid"),
    ],
)
def test_what_cannot_be_is_one_message_with_its_remedy(arguments: list[str], message: str):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "tables are kaggle, criteo_1tb or a TOML file, got 'nothing'"),
        ("rows = []", "at least 1 item"),
        ("rows = [0]", "greater than or equal to 1"),
        ("rows = [1]\ncolumns = 3", "columns is no setting"),
    ],
)
def test_unfit_table_files_are_refused(text: str | None, message: str, tmp_path: Path):
    name = "nothing"
    if text is not None:
        path = tmp_path / "tables.toml"
        path.write_text(text)
        name = str(path)
    with pytest.raises(UsageError, match=message):
        table_sizes(name)


# What a run takes


def small(optimizer: str, batch: int, **changes: object) -> RunConfig:
    values = {**asdict(load(None, optimizer)), "batch_size": batch}
    values["model"] = {"embedding_dim": 16, "bottom": [64, 32], "top": [64, 32]}
    return from_dict({**values, **changes})


@pytest.mark.parametrize("optimizer", ["hybrid", "adahessian_exact", "adam"])
def test_what_is_planned_to_be_kept_is_what_a_run_keeps(optimizer: str):
    run_config = small(optimizer, 1)
    with init_process_group():
        state = TrainState(run_config, [50] * 26, CPU)
        plan, held = state.lookup.plan, state.num_bytes()
    tables = sum(shard.weights + shard.state for shard in plan.shards)
    per_sample = planned_difference(run_config)
    derivatives = 2 * state.parameters.nbytes
    assert plan.dense_bytes - per_sample - derivatives + tables == held


def planned_difference(run_config: RunConfig) -> int:
    """Bytes of dense activations that one sample more adds."""
    with init_process_group():
        one, two = (TrainState(dataclasses.replace(run_config, batch_size=b), [50] * 26, CPU) for b in (1, 2))
    return two.lookup.plan.dense_bytes - one.lookup.plan.dense_bytes


def batch_of(samples: int) -> Batch:
    rng = np.random.default_rng(samples)
    ids = rng.integers(0, 2000, (samples, len(TOKEN_NAMES)), np.int32)
    labels = (rng.random(samples) < 0.3).astype(np.int8)
    return make_batch(rng.random((samples, NUM_INTEGERS), np.float32), ids, labels)


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def step(state: TrainState, samples: int) -> None:
    batch = batch_of(samples)
    train_step(state, batch, curvature_samples=samples, lr_scale=0.0)


PEAK = """
import sys
from tests.embeddings.planning.test_what_if import measured_and_planned
print(*measured_and_planned(sys.argv[1]))
"""


def measured_and_planned(optimizer: str) -> tuple[int, int]:
    """Return by how many bytes a step at 32,768 samples raises the peak of a process, and what its plan says."""
    samples = 32_768
    with init_process_group():
        state = TrainState(small(optimizer, samples), [2000] * 26, CPU)
        for _ in range(2):
            step(state, 64)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        for _ in range(2):
            step(state, samples)
        plan = state.lookup.plan
        kept = sum(shard.weights + shard.state + shard.scratch for shard in plan.shards)
        return peak() - before, plan.rank_bytes(0) - kept


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["hybrid", "adahessian"])
def test_activations_of_a_step_stay_below_the_plan_and_are_of_its_size(optimizer: str):
    done = subprocess.run([sys.executable, "-c", PEAK, optimizer], capture_output=True, text=True, check=True)
    measured, estimate = map(int, done.stdout.split())
    assert estimate / 3 < measured < estimate


@pytest.mark.parametrize("sharding", ["auto", "row"])
def test_a_run_that_does_not_fit_says_what_would(sharding: str):
    settings = {"memory_gib": 0.01, "sharding": sharding}
    with init_process_group(), pytest.raises(UsageError, match="would fit: .* 1 GiB a rank"):
        TrainState(small("hybrid", 64, distributed=settings), [100_000] * 26, CPU)


def test_how_tables_are_spread_is_no_part_of_a_runs_identity():
    plain = small("hybrid", 64)
    spread = small("hybrid", 64, distributed={"sharding": "row", "tables": {"C3": "replicate"}})
    assert plain.fingerprint("rows") == spread.fingerprint("rows")
    assert [spread.distributed.sharding_of(name) for name in ("C1", "C3")] == ["row", "replicate"]
    with pytest.raises(UsageError, match="names tables, C1 to C26, got D1; name one of these"):
        from_dict({**optimizer_preset("hybrid"), "distributed": {"tables": {"D1": "row"}}})
