"""The loss of each of 50 steps, in float64: what a change that means to move no number may not move.

`python -m tests.golden.test_loss_curves` writes curves.json anew: in a commit of its own, which CHANGELOG.md explains.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dlrm_adahessian.config import composed
from dlrm_adahessian.data.criteo.columns import CRITEO, NUM_INTEGERS, TOKEN_NAMES
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import curvature_samples, train_step

CURVES = Path(__file__).with_name("curves.json")
STEPS, BATCH, ROWS = 50, 64, 100
OPTIMIZERS = ("hybrid_diagonal", "adagrad", "adahessian")


def batches() -> list[Batch]:
    """Samples whose clicks depend on the first two features; ids are frequent and rare."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(STEPS):
        dense = rng.random((BATCH, NUM_INTEGERS), np.float32)
        ids = (ROWS * rng.random((BATCH, len(TOKEN_NAMES))) ** 3).astype(np.int32)
        logit = 3 * dense[:, 0] + np.sin(ids[:, 0]) + np.cos(ids[:, 1]) - 2.5
        clicks = rng.random(BATCH) < 1 / (1 + np.exp(-logit))
        found.append(make_batch(CRITEO.features, Features(dense=dense, ids=ids), clicks.astype(np.int8)))
    return found


def curve(optimizer: str) -> list[float]:
    model = {"embedding_dim": 8, "bottom": [32, 16], "top": [32, 16]}
    config = composed({"model": model, "batch_size": BATCH}, optimizer)
    with init_process_group():
        state = TrainState(
            config, CRITEO, [ROWS] * len(TOKEN_NAMES), torch.device("cpu"), dtype=torch.float64
        )
        return [
            train_step(
                state, batch, curvature_samples=curvature_samples(config, step, BATCH), lr_scale=1.0
            ).loss
            for step, batch in enumerate(batches())
        ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_curve_is_that_of_before(optimizer: str) -> None:
    # Another CPU sums in another order: 50 steps make 1e-13 of it, and float32 somewhere in the way would make 1e-7.
    assert curve(optimizer) == pytest.approx(json.loads(CURVES.read_text())[optimizer], rel=1e-10)


if __name__ == "__main__":
    CURVES.write_text(json.dumps({name: curve(name) for name in OPTIMIZERS}, indent=1) + "\n")
