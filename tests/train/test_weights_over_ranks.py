"""Weighted samples on two ranks against repeated samples in one process."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.data.loader import Batch, Loader, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import train_step
from tests.processes import worlds

pytestmark = [pytest.mark.dist, pytest.mark.oracle, pytest.mark.slow]

BATCH, STEPS = 11, 8  # 6 and 5 samples; the last batch has 4, all on the first rank
ROWS = BATCH * (STEPS - 1) + 4
NUM_ROWS = [2 + 5 * (i % 4) for i in range(len(TOKEN_NAMES))]
DATA = SimpleNamespace(
    features=Features(
        dense=np.random.default_rng(0).random((ROWS, NUM_INTEGERS), np.float32),
        ids=np.stack(
            [np.random.default_rng(i).integers(0, n, ROWS, np.int32) for i, n in enumerate(NUM_ROWS)], 1
        ),
    ),
    preprocessing=SimpleNamespace(schema=CRITEO),
    labels=(np.random.default_rng(1).random(ROWS) < 0.4).astype(np.int8),
    weights=np.random.default_rng(2).integers(0, 4, ROWS).astype(np.float32),
)
DATA.weights[6:11] = 0  # in the first step, the second rank has weight 0
DATA.weights[11:22] = 0  # in the second step, all ranks do
CASES = ["hybrid", "hybrid_diagonal", "adahessian_exact", "cowclip"]
MIXED = {table: ("row", "table", "replicate")[i % 3] for i, table in enumerate(TOKEN_NAMES)}


def config_of(case: str) -> RunConfig:
    values = {**optimizer_preset(case), "distributed": {"tables": MIXED} if case != "cowclip" else {}}
    if values["optim"]["dense"]["name"] == "eigenbasis":
        values["optim"]["dense"]["rank"] = (
            1  # entries of dead units are 0, and rounding errors determine their signs
        )
    model = {"embedding_dim": 4, "bottom": [6], "top": [8]}
    return from_dict({**values, "optimizer": case, "model": model, "batch_size": BATCH})


def train(case: str, batches: list[Batch]) -> tuple[list[float], TrainState]:
    config = config_of(case)
    state = TrainState(config, CRITEO, NUM_ROWS, torch.device("cpu"), dtype=torch.float64)
    losses = []
    for batch in batches:
        samples = batch.share.samples if config.curvature != "none" else 0
        losses.append(train_step(state, batch, curvature_samples=samples, lr_scale=0.1).loss)
    return losses, state


def on_two_ranks(folder: Path) -> None:
    with init_process_group():
        for case in CASES:
            loader = Loader(DATA, range(ROWS), BATCH, rank=ranks.rank(), world_size=ranks.world_size())  # pyright: ignore
            losses, state = train(case, list(loader.batches(0)))
            held = {"losses": torch.tensor(losses, dtype=torch.float64), "dense": state.parameters.clone()}
            for shard in state.lookup.shards().values():
                held[f"{shard.table} {shard.first_row}"] = shard.tensors["weight"].clone()
            save_file(held, folder / f"{case}.{ranks.rank()}")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    worlds.run(2, on_two_ranks, folder, log=folder / "log")
    return folder


def repeated_batches() -> list[Batch]:
    """Return batches that repeat each sample according to its weight, without the batch of weight 0."""
    found = []
    for first in range(0, ROWS, BATCH):
        part = slice(first, first + BATCH)
        times = DATA.weights[part].astype(int)
        if times.any():
            places = np.repeat(np.arange(ROWS)[part], times)
            found.append(make_batch(CRITEO.features, DATA.features[places], DATA.labels[places]))
    return found


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_with_the_weights_of_repeated_samples(case: str, two: Path):
    with init_process_group():
        batches = repeated_batches()
        losses, state = train(case, batches)
    of_ranks = [load_file(two / f"{case}.{rank}") for rank in range(2)]
    expected: dict[str, Tensor] = {"dense": state.parameters}
    for name, shard in state.lookup.shards().items():
        expected[name] = shard.tensors["weight"]
    for found in of_ranks:
        assert found["losses"].tolist() == pytest.approx([losses[0], 0.0, *losses[1:]], rel=1e-9)
        torch.testing.assert_close(found["dense"], expected["dense"], rtol=1e-9, atol=1e-12)
        for name, tensor in found.items():
            if name not in ("losses", "dense"):
                table, first = name.rsplit(" ", 1)
                rows = expected[table][int(first) : int(first) + len(tensor)]
                torch.testing.assert_close(
                    tensor, rows, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
                )
