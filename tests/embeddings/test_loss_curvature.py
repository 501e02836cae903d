"""The loss that provides curvature to the rows of a TorchRec model, and losses that do not."""

from collections.abc import Iterator

import pytest
import torch

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.optim.rows import HessianAdagradConfig, RowAdaHessianConfig, RowSGDConfig
from tests.embeddings.torchrec_models import (
    ADAHESSIAN,
    LABELS,
    Case,
    DoubleSharder,
    Model,
    bags_of,
    lookups,
    of_float32,
    sharded,
    step,
    tables,
    weights_of,
)


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    with init_process_group():
        yield


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
def test_a_multiplied_loss_has_its_curvature_multiplied_once():
    """Gradient and Hessian of c L are c times those of L, so AdaHessian with power 1 and no floor takes the same step."""
    rule = RowAdaHessianConfig(lr=0.1, power=1.0, curvature_floor=0.0, eps=0.0, clip=1e6)
    updates = []
    for factor in (1.0, 0.25, 3.0):
        sharder = DoubleSharder(rule)
        model = sharded(Model(tables()).double(), sharder, ("row", "row", "row"))
        weights = [kernel.emb_module.weight for kernel in bags_of(model).kernels()]
        for weight in weights:
            weight.copy_(torch.arange(weight.numel(), dtype=weight.dtype).sin().view_as(weight))
        logits = model(lookups(slice(2)))
        (factor * sharder.log_loss(logits, torch.tensor(LABELS[:2]).double())).backward()
        updates.append(torch.cat([weight.flatten() for weight in weights]))
    for update in updates[1:]:
        torch.testing.assert_close(update, updates[0], rtol=1e-10, atol=1e-10)


@pytest.mark.oracle
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("rowwise", [False, True])
def test_a_step_with_whole_weights_of_mean_1_is_that_of_repeated_samples(rowwise: bool):
    rule = HessianAdagradConfig(lr=0.1, curvature_floor=0.1, rowwise=rowwise)
    found = []
    for samples, weights in (([0, 1, 2, 3], [2, 1, 1, 0]), ([0, 0, 1, 2], None)):
        sharder = DoubleSharder(rule)
        model = sharded(Model(tables()).double(), sharder, ("row", "row", "row"))
        rows = [kernel.emb_module for kernel in bags_of(model).kernels()]
        for of_kernel in rows:
            entries = torch.arange(of_kernel.weight.numel(), dtype=torch.float64)
            of_kernel.weight.copy_(entries.sin().view_as(of_kernel.weight))
        logits = model(lookups(samples))
        labels = torch.tensor(LABELS)[samples].double()
        weight = None if weights is None else torch.tensor(weights).double()
        sharder.log_loss(logits, labels, weight).backward()
        found.append([tensor for r in rows for tensor in (r.weight, *r.state.values())])
    for weighted, repeated in zip(*found, strict=True):
        torch.testing.assert_close(weighted, repeated, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("alone")
def test_another_loss_is_refused_for_a_rule_with_curvature():
    model, sharder = of_float32(Case(ADAHESSIAN))
    step(model, sharder, slice(None))
    before = weights_of(model)
    with pytest.raises(
        RuntimeError, match=r"reads curvature, .*Compute the loss with .*log_loss\(logits, labels\)"
    ):
        model(lookups(slice(None))).sum().backward()
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(model).items())


@pytest.mark.usefixtures("alone")
def test_another_loss_serves_a_rule_of_gradients():
    model, _ = of_float32(Case(RowSGDConfig(lr=0.3)))
    before = weights_of(model)
    model(lookups(slice(None))).sum().backward()
    assert not torch.equal(weights_of(model)["a"], before["a"])


@pytest.mark.usefixtures("alone")
def test_logits_of_other_samples_are_refused():
    model, sharder = of_float32(Case(ADAHESSIAN))
    logits = model(lookups(slice(None)))
    with pytest.raises(ValueError, match=r"got logits of shape \(4,\) and labels of shape \(2,\)"):
        sharder.log_loss(logits, torch.ones(2))
    with pytest.raises(ValueError, match="got 2 logits for 4 samples looked up"):
        sharder.log_loss(logits[:2], torch.ones(2)).backward()
    with pytest.raises(ValueError, match=r"got weights of shape \(4, 1\) for logits of shape \(4,\)"):
        sharder.log_loss(logits, torch.ones(4), torch.ones(4, 1))
