"""The row optimizer of a TorchRec model exposes learning rate and state like TorchRec's own optimizers."""

from collections.abc import Iterator

import pytest
import torch
from torchrec.optim.optimizers import in_backward_optimizer_filter

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.optim.rows import RowSGDConfig
from tests.embeddings.torchrec_models import (
    ADAHESSIAN,
    ROWS,
    WIDTHS,
    Case,
    of_float32,
    step,
    weights_of,
)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    with init_process_group():
        yield


@pytest.mark.usefixtures("alone")
def test_the_state_dicts_are_of_the_rows_themselves():
    model, sharder = of_float32(Case(ADAHESSIAN))
    held, state = model.state_dict(), model.fused_optimizer.state_dict()["state"]
    before = weights_of(model)
    step(model, sharder, slice(None))
    for name in ROWS:
        key = f"bags.embedding_bags.{name}.weight"
        (shard,) = held[key].local_shards()
        assert tuple(held[key].metadata().size) == (ROWS[name], WIDTHS[name])
        assert torch.equal(shard.tensor, weights_of(model)[name])
        assert not torch.equal(shard.tensor, before[name])
        assert all(k.startswith(f"{name}.") for k in state[key])
        assert all(tensor.local_shards()[0].tensor.any() for tensor in state[key].values())


@pytest.mark.usefixtures("alone")
def test_a_dense_optimizer_gets_no_rows():
    model, _ = of_float32(Case(ADAHESSIAN))
    names = {name for name, _ in in_backward_optimizer_filter(model.named_parameters())}
    assert names == {"over.0.weight", "over.0.bias", "over.2.weight", "over.2.bias"}


@pytest.mark.usefixtures("alone")
def test_a_scheduler_of_torch_scales_the_rate():
    model, sharder = of_float32(Case(RowSGDConfig(lr=0.3)))
    torch.optim.lr_scheduler.LambdaLR(model.fused_optimizer, lambda step: 0.0)
    before = weights_of(model)
    step(model, sharder, slice(None))
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())
