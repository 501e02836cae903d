"""Several ranks against one process: same global batches, and the same weights, states, losses, and predictions."""

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.curvature.base import all_finite, gradient
from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS
from dlrm_adahessian.data.loader import Batch, Loader
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.dense_exchange import over_ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.config import DistributedConfig
from dlrm_adahessian.presets import optimizer_preset, preset_names
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import curvature_samples, train_step
from tests.checkpoints import same_bits
from tests.processes import worlds
from tests.train.bags import BAG_ROWS, BAGS, data_of_bags

pytestmark = [pytest.mark.dist, pytest.mark.slow]

CPU = torch.device("cpu")
STEPS = (
    12  # at least two curvatures of every schedule (at most every tenth step), and a basis that has turned
)
DIM = 8
BATCH = 13  # 7 and 6 samples on two ranks; 4, 4, 4 and 1 on four
ROWS = range(3 * BATCH + 3)  # the last batch of an epoch has 3 samples, all on the first rank
# The smallest set of tables with each of four sizes under each of three kinds of sharding.
SCHEMA = Schema(label=CRITEO.label, dense=CRITEO.dense, tokens=CRITEO.tokens[:12])
NUM_ROWS = [
    2 + 13 * (i % 4) for i in range(len(SCHEMA.tokens))
]  # row-wise on two ranks, a table of 2 rows has shards of one row
DATA = SimpleNamespace(
    features=Features(
        dense=np.random.default_rng(0).random((len(ROWS), NUM_INTEGERS), np.float32),
        ids=np.stack(
            [np.random.default_rng(i).integers(0, n, len(ROWS), np.int32) for i, n in enumerate(NUM_ROWS)], 1
        ),
    ),
    preprocessing=SimpleNamespace(schema=SCHEMA),
    labels=(np.random.default_rng(1).random(len(ROWS)) < 0.4).astype(np.int8),
    weights=None,
)

NAMES = preset_names("optimizers")
if not importlib.util.find_spec("pytorch_optimizer"):  # in the extra `rivals`
    NAMES = [name for name in NAMES if "soap" not in name and name != "shampoo"]
MIXED = {table: ("row", "table", "replicate")[i % 3] for i, table in enumerate(SCHEMA.features)}
# Preset, sharding, and settings. Together they cover every sharding that an optimizer with any state supports.
CASES: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    name: (name, {"tables": MIXED}, {}) for name in NAMES
} | {
    "exact, every third step, on some": (
        "hybrid_diagonal", {"sharding": "row"}, {"curvature_every": 3, "curvature_fraction": 0.4}),
    "in an eigenbasis, every third step, on some": (
        "hybrid", {"sharding": "table"}, {"curvature_every": 3, "curvature_fraction": 0.4}),
    "hutchinson, two probes, on some": (
        "adahessian", {"sharding": "column"}, {"curvature_probes": 2, "curvature_fraction": 0.4}),
    "sampled labels, two draws, on some": (
        "sophia", {"sharding": "table"}, {"curvature_every": 2, "curvature_probes": 2, "curvature_fraction": 0.4}),
}  # fmt: skip
MIXED_BAGS = dict(zip(BAGS.features, 3 * ["row", "table", "replicate"], strict=False))
OF_BAGS: dict[str, tuple[str, dict[str, object], dict[str, object]]] = {
    "bags, whole tables": ("hybrid", {"sharding": "table"}, {"curvature_every": 3, "curvature_fraction": 0.4}),
    "bags, rows cut": ("hybrid_diagonal", {"sharding": "row"}, {}),
    "bags, columns cut": ("adahessian", {"sharding": "column"}, {"curvature_probes": 2, "curvature_fraction": 0.4}),
    "bags, copies": ("adahessian", {"sharding": "replicate"}, {"curvature_fraction": 0.4}),
    "bags, clipped by lookups": ("cowclip", {"tables": MIXED_BAGS}, {}),
}  # fmt: skip
CASES |= OF_BAGS
REGULAR = {"dropout": 0.3, "l2_weights": 0.01, "l2_rows": 0.02}
CASES |= {
    "regular": ("hybrid_diagonal", {"tables": MIXED}, {"model": REGULAR}),
    "regular, columns cut, on some": (
        "adahessian", {"sharding": "column"}, {"model": REGULAR, "curvature_fraction": 0.4}),
}  # fmt: skip
ON_FOUR = [  # each kind of sharding, of tokens or bags, with every kind of curvature
    "exact, every third step, on some",
    "hutchinson, two probes, on some",
    "sampled labels, two draws, on some",
    "bags, whole tables",
    "bags, copies",
    "bags, clipped by lookups",
]
IN_FLOAT32 = ["hybrid", "hybrid_diagonal", "adahessian", "sophia"]
PASSED_ON, PASSED_AT = "adahessian", 6  # from 2 ranks to 1 to 4 to 2; its estimator is random


def config_of(case: str) -> RunConfig:
    name, spread, settings = CASES[case]
    values = {**optimizer_preset(name), **settings, "distributed": spread}
    if values["optim"]["dense"]["name"] == "soap":
        # Float32 rounding errors turn its bases, of rank 13 at most. Without bases the results are comparable.
        values["optim"]["dense"]["max_dim"] = 1
    if values["optim"]["dense"]["name"] == "shampoo":
        values["optim"]["dense"]["precondition_every"] = STEPS  # its matrix roots are only accurate to 1e-6
    if values["optim"]["dense"]["name"] == "eigenbasis":
        values["optim"]["dense"]["rank"] = (
            1  # entries of dead units are 0, and rounding errors determine their signs
        )
    model = {"embedding_dim": DIM, "bottom": [6], "top": [8], **values.get("model", {})}
    return from_dict({**values, "optimizer": name, "model": model, "batch_size": BATCH})


def new_state(case: str, dtype: torch.dtype = torch.float64) -> TrainState:
    schema, num_rows = (BAGS, BAG_ROWS) if case in OF_BAGS else (SCHEMA, NUM_ROWS)
    return TrainState(config_of(case), schema, num_rows, CPU, dtype=dtype)


def batches(first_step: int, data: SimpleNamespace = DATA) -> Iterator[Batch]:
    """Yield this rank's batches from a step on, without end."""
    loader = Loader(
        data, ROWS, BATCH, order="shuffled", seed=5, rank=ranks.rank(), world_size=ranks.world_size()
    )  # pyright: ignore
    epoch, first = divmod(first_step, loader.batches_per_epoch)
    while True:
        yield from loader.batches(epoch, first)
        epoch, first = epoch + 1, 0


def train(state: TrainState, config: RunConfig, steps: range, data: SimpleNamespace = DATA) -> list[float]:
    losses = []
    coming = pairwise(batches(steps.start, data))
    for step, (batch, following) in zip(steps, coming, strict=False):
        samples = curvature_samples(config, step, batch.share.samples)
        found = train_step(state, batch, curvature_samples=samples, lr_scale=0.1, following=following)
        assert found.finite
        losses.append(found.loss)
    return losses


def held(state: TrainState) -> dict[str, Tensor]:
    """Return the tensors of this rank. Names of shards contain their first row and column."""
    named = {f"dense {name}": tensor.clone() for name, tensor in state._dense_tensors().items()}
    for shard in state.lookup.shards().values():
        for name, tensor in shard.tensors.items():
            named[f"rows {shard.table} {name} {shard.first_row} {shard.first_column}"] = tensor.clone()
    return named


def joined(of_ranks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Merge the tensors of all ranks, and check that replicas are bitwise equal."""
    pieces: dict[str, Tensor] = {}
    for rank in of_ranks:
        for name, tensor in rank.items():
            if len(tensor.reshape(-1)):
                assert same_bits(pieces.setdefault(name, tensor), tensor), name
    found = {name: tensor for name, tensor in pieces.items() if name.startswith("dense")}
    tables: dict[str, dict[int, dict[int, Tensor]]] = {}
    for name, tensor in pieces.items():
        if name.startswith("rows"):
            of_table, row, column = name.rsplit(" ", 2)
            tables.setdefault(of_table, {}).setdefault(int(row), {})[int(column)] = tensor
    for name, rows in tables.items():
        stripes = [[columns[c] for c in sorted(columns)] for _, columns in sorted(rows.items())]
        # Each column shard has a copy of states with one value per row.
        found[name] = torch.cat(
            [torch.cat(parts, 1) if parts[0].ndim == 2 else parts[0] for parts in stripes]
        )
    return found


def of_world(folder: Path, name: str, count: int) -> dict[str, Tensor]:
    return joined([load_file(folder / f"{name}.{rank}") for rank in range(count)])


def keep(folder: Path, name: str, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, folder / f"{name}.{ranks.rank()}")


def trained(case: str) -> TrainState:
    """Return the final state of a case on this rank."""
    state = new_state(case)
    data = data_of_bags(DATA.features.dense, DATA.labels) if case in OF_BAGS else DATA
    train(state, config_of(case), range(STEPS), data)
    return state


def train_cases(folder: Path, cases: list[str]) -> None:
    """Train each case on this rank, and save the result."""
    for case in cases:
        keep(folder, case, held(trained(case)))


def train_in_float32(folder: Path) -> None:
    """Train some cases for a few steps in float32, and save the losses."""
    for case in IN_FLOAT32:
        losses = train(new_state(case, torch.float32), config_of(case), range(20))
        keep(folder, f"{case} in float32", {"dense losses": torch.tensor(losses)})


def begin_chain(folder: Path) -> None:
    """Train, and save the first checkpoint of the chain."""
    state = new_state(PASSED_ON, torch.float32)
    train(state, config_of(PASSED_ON), range(PASSED_AT))
    keep(folder, "passed on", {**held(state), "dense predictions": predictions(state)})
    state.save(folder / "saved", PASSED_AT, {}, "run")


def pass_on(folder: Path, source: Path) -> TrainState:
    """Load a checkpoint of any number of ranks, save it again, and return the loaded state."""
    state = new_state(PASSED_ON, torch.float32)
    found = load_newest_good(source / "saved", "run")
    assert found is not None
    state.restore_(found)
    keep(folder, "passed on", {**held(state), "dense predictions": predictions(state)})
    state.save(folder / "saved", PASSED_AT, {}, "run")
    return state


def end_chain(folder: Path, source: Path) -> None:
    """Load a checkpoint and continue training."""
    losses = train(pass_on(folder, source), config_of(PASSED_ON), range(PASSED_AT, PASSED_AT + 6))
    keep(folder, "after", {"dense losses": torch.tensor(losses)})


def predictions(state: TrainState) -> Tensor:
    """Return the predictions of all samples. Each rank scores 16 at once, for any number of ranks."""
    count = ranks.world_size()
    loader = Loader(DATA, ROWS, 16 * count, rank=ranks.rank(), world_size=count)  # pyright: ignore
    return torch.from_numpy(state.score(loader.batches(0)))


def meet_nan() -> None:
    """Check that all ranks notice if one of them has a value that is not finite, at any place."""
    state, last = new_state("hybrid"), ranks.rank() == ranks.world_size() - 1
    batch = next(batches(0))
    if last:
        batch.dense[0, 0] = torch.nan
    found = train_step(state, batch, curvature_samples=BATCH, lr_scale=0.1)
    assert not found.finite
    assert math.isnan(found.loss)
    assert int(found.derivatives.logits.isnan().sum()) == 1
    # Only at the pooled embeddings, whose derivatives are not summed over ranks.
    derivatives = gradient(
        state.head,
        batch.dense.double().nan_to_num(),
        state.lookup(batch.kjt)[: len(batch.dense)],
        batch.labels.double(),
    )
    if last:
        derivatives.pooled_grad[0, 0, 0] = torch.inf
    assert not all_finite(over_ranks(derivatives, batch.share, curvature_samples=0))


def round_on_the_way() -> None:
    """Check that bf16 rounds each exchanged number once, and nothing else."""
    generator = torch.Generator().manual_seed(ranks.rank())
    batch = next(batches(0))
    for sharding, case, columns in (
        ("table", "hybrid", 1),
        ("row", "hybrid", 1),
        ("column", "adahessian", DIM),
    ):
        plain, rounding = (
            TrainState(
                replace(config_of(case), exchange_precision=precision, distributed=DistributedConfig(sharding=sharding)),
                SCHEMA, NUM_ROWS, CPU,
            ).lookup
            for precision in ("fp32", "bf16")
        )  # fmt: skip
        pooled, rounded = plain(batch.kjt), rounding(batch.kjt)
        assert torch.equal(rounded, pooled.half().float())
        assert not torch.equal(rounded, pooled)
        grad = torch.randn(pooled.shape, generator=generator)
        curvature = torch.rand(*pooled.shape[:2], columns, generator=generator)
        scale = {"lr_scale": 1.0, "samples": BATCH}
        rounding.push(rounded, grad, curvature, **scale)
        plain.push(pooled, grad.bfloat16().float(), curvature.bfloat16().float(), **scale)
        for name, shard in plain.shards().items():
            assert all(torch.equal(t, rounding.shards()[name].tensors[n]) for n, t in shard.tensors.items())


def two_ranks(folder: Path) -> None:
    with init_process_group():
        round_on_the_way()
        train_cases(folder, list(CASES))
        train_in_float32(folder)
        begin_chain(folder)
        meet_nan()


def four_ranks(folder: Path, source: Path) -> None:
    with init_process_group():
        train_cases(folder, ON_FOUR)
        pass_on(folder, source)


def two_again(folder: Path, source: Path) -> None:
    with init_process_group():
        end_chain(folder, source)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on the ranks
    with init_process_group():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    worlds.run(2, two_ranks, folder, log=folder / "log")
    return folder


@pytest.fixture(scope="module")
def one(two: Path, alone: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    pass_on(folder, two)
    return folder


@pytest.fixture(scope="module")
def four(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("four")
    worlds.run(4, four_ranks, folder, one, log=folder / "log")
    return folder


@pytest.fixture(scope="module")
def last(four: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("last")
    worlds.run(2, two_again, folder, four, log=folder / "log")
    return folder


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("case", CASES)
def test_ranks_end_with_the_weights_and_states_of_one_process(case: str, two: Path, four: Path):
    expected = joined([held(trained(case))])
    worlds_of_case = [(two, 2), *([(four, 4)] if case in ON_FOUR else [])]
    for folder, count in worlds_of_case:
        found = of_world(folder, case, count)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            # Steps amplify rounding errors of 1e-16. Entries that cancel to nearly 0 keep the absolute error of the terms.
            scale = float(tensor.abs().max()) if tensor.is_floating_point() else 0.0
            torch.testing.assert_close(
                found[name], tensor, rtol=1e-10, atol=1e-12 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("case", IN_FLOAT32)
def test_losses_of_the_first_steps_are_those_of_one_process_in_float32(case: str, two: Path):
    expected = train(new_state(case, torch.float32), config_of(case), range(20))
    found = of_world(two, f"{case} in float32", 2)["dense losses"]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=1e-5)


def test_checkpoint_of_any_number_of_ranks_is_loaded_by_any_other_bit_for_bit(
    two: Path, one: Path, four: Path, last: Path
):
    saved = of_world(two, "passed on", 2)
    for folder, count in ((one, 1), (four, 4), (last, 2)):
        found = of_world(folder, "passed on", count)
        assert found.keys() == saved.keys()
        assert [name for name in saved if not same_bits(saved[name], found[name])] == []


@pytest.mark.usefixtures("alone")
def test_training_goes_on_where_another_number_of_ranks_left_it(last: Path):
    whole = train(new_state(PASSED_ON, torch.float32), config_of(PASSED_ON), range(PASSED_AT + 6))
    found = of_world(last, "after", 2)["dense losses"]
    torch.testing.assert_close(found, torch.tensor(whole[PASSED_AT:]), rtol=0, atol=1e-5)
