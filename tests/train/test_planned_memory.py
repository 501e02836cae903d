"""The memory that a plan predicts against that of a real training state."""

import ctypes
import dataclasses
import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm_adahessian.config import RunConfig, asdict, from_dict, load
from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import train_step
from tests.processes import worlds
from tests.train.bags import drawn_bags

CPU = torch.device("cpu")
LONGEST = 200  # tokens in the longest bag


def small(optimizer: str, batch: int, **changes: object) -> RunConfig:
    values = {**asdict(load(None, optimizer)), "batch_size": batch}
    values["model"] = {"embedding_dim": 16, "bottom": [64, 32], "top": [64, 32]}
    return from_dict({**values, **changes})


@pytest.mark.parametrize("optimizer", ["hybrid", "adahessian_exact", "adam"])
def test_what_is_planned_to_be_kept_is_what_a_run_keeps(optimizer: str):
    run_config = small(optimizer, 1)
    with init_process_group():
        state = TrainState(run_config, CRITEO, [50] * 26, CPU)
        plan, held = state.lookup.plan, state.num_bytes()
    tables = sum(shard.weights + shard.state for shard in plan.shards)
    per_sample = planned_difference(run_config)
    derivatives = 2 * state.parameters.nbytes
    assert plan.dense_bytes - per_sample - derivatives + tables == held


def planned_difference(run_config: RunConfig) -> int:
    """Return the bytes of dense activations that one more sample adds."""
    with init_process_group():
        one, two = (
            TrainState(dataclasses.replace(run_config, batch_size=b), CRITEO, [50] * 26, CPU) for b in (1, 2)
        )
    return two.lookup.plan.dense_bytes - one.lookup.plan.dense_bytes


def batch_of(samples: int, bags: int) -> Batch:
    """Return samples whose last features are bags of 0 to `LONGEST` tokens."""
    rng = np.random.default_rng(samples)
    ids = rng.integers(0, 2000, (samples, len(TOKEN_NAMES) - bags), np.int32)
    labels = (rng.random(samples) < 0.3).astype(np.int8)
    features = Features(
        dense=rng.random((samples, NUM_INTEGERS), np.float32),
        ids=ids,
        bags=tuple(drawn_bags(2000, samples, rng, most=LONGEST) for _ in range(bags)),
    )
    return make_batch(CRITEO.features, features, labels)


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def step(state: TrainState, samples: int, bags: int) -> None:
    batch = batch_of(samples, bags)
    train_step(state, batch, curvature_samples=samples, lr_scale=0.0)


def measure(optimizer: str, samples: int, bags: int) -> None:
    """Print by how many bytes a step raises the peak memory of a process, and the prediction of the plan."""
    with init_process_group():
        lengths = [1.0] * (26 - bags) + [LONGEST / 2] * bags
        state = TrainState(small(optimizer, samples), CRITEO, [2000] * 26, CPU, values_per_bag=lengths)
        for _ in range(2):
            step(state, 64, bags)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        for _ in range(2):
            step(state, samples, bags)
        plan = state.lookup.plan
        kept = sum(shard.weights + shard.state + shard.scratch for shard in plan.shards)
        print(peak() - before, plan.rank_bytes(0) - kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "samples", "bags"),
    [
        ("hybrid", 32_768, 0),
        pytest.param("adahessian", 32_768, 0, marks=pytest.mark.campaign),
        ("hybrid", 4096, 20),
    ],
)
def test_activations_of_a_step_stay_below_the_plan_and_are_of_its_size(
    optimizer: str, samples: int, bags: int, tmp_path: Path
):
    worlds.run(1, measure, optimizer, samples, bags, log=tmp_path / "log")
    measured, estimate = map(int, worlds.printed(tmp_path / "log", 0).split("\n")[-2].split())
    assert estimate / 3 < measured < estimate


@pytest.mark.parametrize("sharding", ["auto", "row"])
def test_a_run_that_does_not_fit_says_what_would(sharding: str):
    settings = {"memory_gib": 0.01, "sharding": sharding}
    with init_process_group(), pytest.raises(UsageError, match="would fit: .* 1 GiB per rank"):
        TrainState(small("hybrid", 64, distributed=settings), CRITEO, [100_000] * 26, CPU)


def test_how_tables_are_spread_is_no_part_of_a_runs_identity():
    plain = small("hybrid", 64)
    spread = small("hybrid", 64, distributed={"sharding": "row", "tables": {"C3": "replicate"}})
    assert plain.fingerprint("rows") == spread.fingerprint("rows")
    assert [spread.distributed.sharding_of(name) for name in ("C1", "C3")] == ["row", "replicate"]
    elsewhere = small("hybrid", 64, distributed={"tables": {"D1": "row"}})
    with pytest.raises(
        UsageError, match="Unknown table in distributed.tables: D1. The tables are C1, .*, C26"
    ):
        TrainState(elsewhere, CRITEO, [50] * 26, CPU)
