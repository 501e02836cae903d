"""Models without numeric or without categorical features, and architectures other than DLRM.

The tests cover training, checkpoints, predictions, and two ranks against one.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlrm_adahessian.checkpoint.reader import load_newest_good
from dlrm_adahessian.config import RunConfig, composed
from dlrm_adahessian.data.loader import Batch, Loader
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.schema import DenseColumn, LabelColumn, Schema, TokenColumn
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import curvature_samples, train_step
from tests.checkpoints import names, same_bits
from tests.oracles import plain_logits
from tests.processes import worlds

CPU = torch.device("cpu")
OPTIMIZERS = ["hybrid", "adagrad", "adahessian"]
BATCH = 5  # 3 and 2 samples on two ranks; the last batch of an epoch has 2, both on the first rank
ROWS = range(3 * BATCH + 2)
STEPS, SAVED_AFTER = 9, 5
KINDS = {
    "no dense column": (0, 3),
    "one categorical column alone": (0, 1),
    "no categorical column": (4, 0),
    "deepfm": (4, 3),
    "dcnv2": (4, 3),
}
MODELS: dict[str, dict[str, object]] = {
    "deepfm": {"name": "deepfm", "deep": [6]},
    "dcnv2": {"name": "dcnv2", "crosses": 2, "rank": 2, "structure": "parallel", "deep": [6]},
}
NUM_ROWS = [2, 15, 7]  # row-wise on two ranks, the shards of the first table have one row


def schema_of(kind: str) -> Schema:
    num_dense, num_tokens = KINDS[kind]
    return Schema(
        label=LabelColumn(column="click"),
        dense=tuple(DenseColumn(column=f"x{i}") for i in range(num_dense)),
        tokens=tuple(TokenColumn(column=f"t{i}") for i in range(num_tokens)),
    )


def data_of(kind: str) -> SimpleNamespace:
    rng = np.random.default_rng(0)
    num_dense, num_tokens = KINDS[kind]
    dense = rng.random((len(ROWS), num_dense), np.float32)
    ids = np.empty((len(ROWS), num_tokens), np.int32)
    for column, height in zip(ids.T, NUM_ROWS, strict=False):
        column[:] = rng.integers(0, height, len(ROWS))
    return SimpleNamespace(
        features=Features(dense=dense, ids=ids),
        labels=(rng.random(len(ROWS)) < 0.4).astype(np.int8),
        weights=None,
        preprocessing=SimpleNamespace(schema=schema_of(kind)),
    )


def config_of(optimizer: str, kind: str, **changes: object) -> RunConfig:
    # Entries of dead units are 0, and rounding errors determine their signs.
    optim = {"dense": {"rank": 1}} if optimizer == "hybrid" else {}
    model = {"embedding_dim": 4, **MODELS.get(kind, {"bottom": [6], "top": [8]})}
    spread = {"sharding": "row"} if KINDS[kind][1] else {}
    values = {"model": model, "batch_size": BATCH, "distributed": spread, "optim": optim}
    return composed({**values, **changes}, optimizer)


def new_state(optimizer: str, kind: str, dtype: torch.dtype = torch.float64) -> TrainState:
    heights = NUM_ROWS[: KINDS[kind][1]]
    return TrainState(config_of(optimizer, kind), schema_of(kind), heights, CPU, dtype=dtype)


def loader_of(kind: str, batch_size: int = BATCH) -> Loader:
    return Loader(data_of(kind), ROWS, batch_size, rank=ranks.rank(), world_size=ranks.world_size())  # pyright: ignore


def batches(kind: str, first_step: int) -> Iterator[Batch]:
    """Yield this rank's batches from a step on, without end."""
    loader = loader_of(kind)
    epoch, first = divmod(first_step, loader.batches_per_epoch)
    while True:
        yield from loader.batches(epoch, first)
        epoch, first = epoch + 1, 0


def train(state: TrainState, optimizer: str, kind: str, steps: range) -> list[float]:
    config, losses = config_of(optimizer, kind), []
    for step, (batch, following) in zip(steps, pairwise(batches(kind, steps.start)), strict=False):
        samples = curvature_samples(config, step, batch.share.samples)
        found = train_step(state, batch, curvature_samples=samples, lr_scale=0.1, following=following)
        assert found.finite
        losses.append(found.loss)
    return losses


def scores(state: TrainState, kind: str) -> Tensor:
    """Return the predictions of all samples, computed in parts of 4 per rank."""
    return torch.from_numpy(state.score(loader_of(kind, 4 * ranks.world_size()).batches(0)))


def held(state: TrainState) -> dict[str, Tensor]:
    """Return the tensors of this rank. Names of shards contain the table and the first row."""
    named = {f"dense {name}": tensor.clone() for name, tensor in state._dense_tensors().items()}
    for shard in state.lookup.shards().values():
        for name, tensor in shard.tensors.items():
            named[f"{shard.table} {name} {shard.first_row}"] = tensor.clone()
    return named


@pytest.fixture
def alone() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as on the ranks
    with init_process_group():
        yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_saved_and_restored_training_continues_bit_for_bit(optimizer: str, kind: str, tmp_path: Path):
    whole = new_state(optimizer, kind, torch.float32)
    losses = train(whole, optimizer, kind, range(STEPS))
    first = new_state(optimizer, kind, torch.float32)
    train(first, optimizer, kind, range(SAVED_AFTER))
    first.save(tmp_path, SAVED_AFTER, {}, "run")
    found = load_newest_good(tmp_path, "run")
    assert found is not None
    assert {part.table for part in found.stored} == set(schema_of(kind).features)
    second = new_state(optimizer, kind, torch.float32)
    second.restore_(found)
    assert torch.equal(scores(second, kind), scores(first, kind))
    assert train(second, optimizer, kind, range(SAVED_AFTER, STEPS)) == losses[SAVED_AFTER:]
    expected, continued, initial = held(whole), held(second), held(new_state(optimizer, kind, torch.float32))
    assert expected.keys() == continued.keys()
    assert [name for name in expected if not same_bits(expected[name], continued[name])] == []
    moved = ["dense parameters", *(f"{name} weight 0" for name in schema_of(kind).features)]
    assert not any(same_bits(initial[name], continued[name]) for name in moved)


@pytest.mark.usefixtures("alone")
def test_a_checkpoint_without_tables_has_no_file_of_rows(tmp_path: Path):
    state = new_state("hybrid", "no categorical column")
    state.save(tmp_path, 0, {}, "run")
    assert names(tmp_path / "step-00000000") == ["dense.safetensors", "manifest.json", "state.json"]
    assert state.columns is None
    assert state.num_bytes() == sum(tensor.nbytes for tensor in state._dense_tensors().values())


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_model_written_down_again(kind: str):
    state, data = new_state("hybrid", kind), data_of(kind)
    train(state, "hybrid", kind, range(STEPS))
    tables = list(state.lookup.tables().values())
    ids = torch.from_numpy(data.features.ids).long()
    rows = [table[ids[:, feature]] for feature, table in enumerate(tables)]
    pooled = torch.stack(rows, 1) if rows else torch.empty(len(ROWS), 0, 4, dtype=torch.float64)
    values = {name: p.detach() for name, p in state.head.named_parameters()}
    dense = torch.from_numpy(data.features.dense).double()
    expected = plain_logits(values, config_of("hybrid", kind).model, dense, pooled).sigmoid()
    torch.testing.assert_close(scores(state, kind).double(), expected, rtol=1e-6, atol=0)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_keeps_what_the_state_holds(kind: str):
    state = new_state("hybrid", kind)
    plan = state.lookup.plan
    tables = sum(shard.weights + shard.state for shard in plan.shards)
    dense = state.parameters.nbytes + state.dense_optimizer.num_bytes(state.parameters)
    columns = 0 if state.columns is None else state.columns.num_bytes()
    assert state.num_bytes() == tables + dense + columns
    assert plan.dense_bytes > dense + columns
    assert len({shard.table for shard in plan.shards}) == KINDS[kind][1]


@pytest.mark.usefixtures("alone")
def test_a_setting_of_a_table_is_refused_where_there_is_none():
    config = config_of("hybrid", "no categorical column", distributed={"tables": {"t0": "row"}})
    with pytest.raises(
        UsageError, match="distributed.tables names t0, but this model has no embedding tables"
    ):
        TrainState(config, schema_of("no categorical column"), [], CPU)


def train_each(folder: Path) -> None:
    """Train each kind of model with each optimizer on this rank, and save the result."""
    with init_process_group():
        for optimizer in OPTIMIZERS:
            for kind in KINDS:
                state = new_state(optimizer, kind)
                losses = train(state, optimizer, kind, range(STEPS))
                found = {
                    **held(state), "losses": torch.tensor(losses, dtype=torch.float64), "scores": scores(state, kind)
                }  # fmt: skip
                save_file(found, folder / f"{optimizer}, {kind}.{ranks.rank()}")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    worlds.run(2, train_each, folder, log=folder / "log")
    return folder


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_ranks_end_with_the_weights_states_and_scores_of_one_process(
    optimizer: str, kind: str, two: Path
):
    state = new_state(optimizer, kind)
    losses = train(state, optimizer, kind, range(STEPS))
    expected, expected_scores = held(state), scores(state, kind)
    covered = dict.fromkeys(schema_of(kind).features, 0)
    for rank in range(2):
        found = load_file(two / f"{optimizer}, {kind}.{rank}")
        assert found.pop("losses").tolist() == pytest.approx(losses, rel=1e-10)
        torch.testing.assert_close(found.pop("scores"), expected_scores, rtol=1e-6, atol=0)
        for name, tensor in found.items():
            want = expected.get(name)
            if not name.startswith("dense"):
                table, part, first = name.rsplit(" ", 2)
                want = expected[f"{table} {part} 0"][int(first) :][: len(tensor)]
                covered[table] += len(tensor) if part == "weight" else 0
            assert want is not None
            # Entries that cancel to nearly 0 keep the absolute error of the terms.
            scale = float(want.abs().max()) if want.is_floating_point() and want.numel() else 0.0
            torch.testing.assert_close(
                tensor, want, rtol=1e-10, atol=1e-12 * scale, msg=lambda m, n=name: f"{n}: {m}"
            )
    assert list(covered.values()) == NUM_ROWS[: len(covered)]
