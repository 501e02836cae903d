"""The dense penalty against a brute-force Hessian, and both penalties in a step against closed forms."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dlrm_adahessian.curvature.base import flat
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.loader import Batch
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.model.dlrm import flatten_parameters_
from dlrm_adahessian.train.objective import penalized
from dlrm_adahessian.train.state import TrainState
from dlrm_adahessian.train.step import train_step
from tests.oracles import BATCH, plain_logits, pooled_of, small_batch, small_config, small_head
from tests.train.test_step import batch_of, small

L2, LR = 0.25, 0.5


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    with init_process_group():
        yield


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["dlrm", "deepfm", "dcnv2"])
def test_the_derivatives_are_those_of_the_loss_with_the_penalty(name: str):
    """For all weights and biases, against autograd and a brute-force Hessian of the sum."""
    head, cfg = small_head(name=name), small_config(name)
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    named = {key: p.detach().clone() for key, p in head.named_parameters()}
    parameters = flatten_parameters_(head)
    found = ExactDiagonal(kind="gauss_newton")(head, dense, pooled, labels, curvature_samples=BATCH)
    found = penalized(found, parameters, L2)

    def loss(changed: dict[str, torch.Tensor]) -> torch.Tensor:
        values = {**named, **changed}
        logits = plain_logits(values, cfg, dense, pooled)
        penalty = L2 / 2 * sum(value.square().sum() for value in values.values())
        return F.binary_cross_entropy_with_logits(logits, labels) + penalty

    diagonals = []
    for key, at in named.items():
        hessian = torch.func.hessian(lambda x, key=key, at=at: loss({key: x.view_as(at)}))(at.flatten())
        diagonals.append(hessian.diagonal())
    torch.testing.assert_close(found.curvature, torch.cat(diagonals), rtol=1e-10, atol=1e-14)
    gradient = torch.func.grad(loss)(named)
    torch.testing.assert_close(found.grad, flat(list(gradient.values())), rtol=1e-10, atol=1e-14)


def state_of(optimizer: str, **of_model: float) -> TrainState:
    rows = [12] * len(CRITEO.features)
    return TrainState(small(optimizer, **of_model), CRITEO, rows, torch.device("cpu"), dtype=torch.float64)


def weighted(batch: Batch) -> Batch:
    weights = np.linspace(0.5, 2, len(batch.labels), dtype=np.float32)
    return replace(batch, weights=torch.from_numpy(weights), all_weights=weights)


@pytest.mark.parametrize("optimizer", ["hybrid", "hybrid_adahessian", "adahessian", "sophia"])
def test_a_step_adds_the_penalty_once_to_the_curvature_of_any_part_of_its_samples(optimizer: str):
    batch, found = weighted(batch_of(5)), []
    for l2 in (0.0, L2):
        state = state_of(optimizer, l2_weights=l2)
        start = state.parameters.clone()
        found.append(train_step(state, batch, curvature_samples=5, lr_scale=LR))
    plain, other = (step.derivatives for step in found)
    torch.testing.assert_close(other.grad - plain.grad, L2 * start, rtol=1e-12, atol=1e-15)
    expected = torch.full_like(start, L2)
    torch.testing.assert_close(other.curvature - plain.curvature, expected, rtol=1e-12, atol=1e-15)
    assert found[0].loss == found[1].loss, "the reported loss has no penalty"


def test_a_step_of_sgd_shrinks_the_weights_and_the_rows_that_were_looked_up():
    states = [state_of("sgd"), state_of("sgd", l2_weights=L2), state_of("sgd", l2_rows=L2)]
    weights = states[0].parameters.clone()
    rows = {name: table.clone() for name, table in states[0].lookup.tables().items()}
    batch = batch_of(5)  # embedding rows 0 to 5 of 12, with repeats
    for state in states:
        train_step(state, batch, curvature_samples=0, lr_scale=LR)
    plain, of_weights, of_rows = states
    config = small("sgd").optim
    expected = plain.parameters - config.dense.lr * LR * L2 * weights
    torch.testing.assert_close(of_weights.parameters, expected, rtol=1e-12, atol=1e-15)
    assert torch.equal(of_rows.parameters, plain.parameters)
    for place, (name, table) in enumerate(plain.lookup.tables().items()):
        shrunk = torch.zeros(len(table), 1, dtype=torch.float64)
        shrunk[batch.kjt.values().view(len(rows), -1)[place]] = config.rows.lr * LR * L2
        found = of_rows.lookup.tables()[name]
        torch.testing.assert_close(found, table - shrunk * rows[name], rtol=1e-12, atol=1e-15)
        assert torch.equal(of_weights.lookup.tables()[name], table)
