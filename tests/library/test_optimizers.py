"""Test the optimizers against the rules on one flat vector, and torch's groups, schedulers, and state_dict."""

import copy
import inspect
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.library.eigenbasis import Eigenbasis
from dlrm_adahessian.library.exact import exact_curvature
from dlrm_adahessian.library.optimizers import AdaHessian, HessianAdagrad
from dlrm_adahessian.optim.dense import AdaHessianConfig, DenseHessianAdagradConfig, EigenbasisConfig
from tests.library.models import SAMPLES, batch, mlp, train

STEPS = 12
CASES = {
    "AdaHessian": (lambda p: AdaHessian(p, lr=0.03), AdaHessianConfig(lr=0.03)),
    "AdaHessian as its authors have it": (
        lambda p: AdaHessian(p, 0.15, (0.8, 0.99), 1e-4, 0.01, power=1.0, average_rows=True, curvature_floor=0.0),
        AdaHessianConfig(
            lr=0.15, beta1=0.8, beta2=0.99, eps=1e-4, weight_decay=0.01, power=1.0, average_rows=True,
            curvature_floor=0.0,
        ),
    ),
    "blocks": (lambda p: AdaHessian(p, block_size=4), AdaHessianConfig(block_size=4)),
    "HessianAdagrad": (HessianAdagrad, DenseHessianAdagradConfig()),
    "with momentum": (
        lambda p: HessianAdagrad(p, 0.02, 0.9, curvature_floor=0.5),
        DenseHessianAdagradConfig(lr=0.02, beta1=0.9, curvature_floor=0.5),
    ),
}  # fmt: skip


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("make", "cfg"), CASES.values(), ids=CASES)
def test_a_step_is_that_of_the_rule_on_all_parameters_one_after_another(make, cfg, dtype):
    model = mlp().to(dtype)
    parameters = list(model.parameters())
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])
    rule = cfg.build(vector, [p.shape for p in parameters])
    optimizer, curvature = make(parameters), exact_curvature(model, every=3)
    for step in range(STEPS):
        x, y = (tensor.to(dtype) for tensor in batch(step))
        optimizer.zero_grad()
        with curvature:
            F.binary_cross_entropy_with_logits(model(x).squeeze(1), y).backward()
        grad = torch.cat([p.grad.reshape(-1) for p in parameters])
        found = None if step % 3 else torch.cat([p.curvature.reshape(-1) for p in parameters])
        rule.step(vector, grad, found, lr_scale=1.0, samples=SAMPLES)
        optimizer.step()
        assert torch.equal(torch.cat([p.detach().reshape(-1) for p in parameters]), vector), step


@pytest.mark.parametrize("make", [make for make, _ in CASES.values()], ids=CASES)
def test_a_loaded_state_goes_on_to_the_bit(make):
    first = mlp().float()
    optimizer, curvature = make(first.parameters()), exact_curvature(first, every=3)
    train(first, optimizer, range(4), curvature)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer.state_dict(), curvature.state_dict()], file)
    file.seek(0)
    of_model, of_optimizer, of_curvature = torch.load(file, weights_only=True)
    second = mlp(seed=9).float()
    second.load_state_dict(of_model)
    resumed, anew = make(second.parameters()), exact_curvature(second, every=3)
    resumed.load_state_dict(of_optimizer)
    resumed.load_state_dict(copy.deepcopy(resumed.state_dict()))
    anew.load_state_dict(of_curvature)
    train(first, optimizer, range(4, STEPS), curvature)
    train(second, resumed, range(4, STEPS), anew)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    states = zip(optimizer.state.values(), resumed.state.values(), strict=True)
    for ours, theirs in states:
        assert {name: t.dtype for name, t in ours.items()} == {name: t.dtype for name, t in theirs.items()}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_copy_goes_on_by_itself():
    model = mlp()
    optimizer, curvature = AdaHessian(model.parameters()), exact_curvature(model)
    train(model, optimizer, range(3), curvature)
    twin, other = copy.deepcopy((model, optimizer))
    before = [p.clone() for p in model.parameters()]
    train(twin, other, range(3, 6), exact_curvature(twin))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    train(model, optimizer, range(3, 6), curvature)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_each_group_has_its_own_settings():
    both, alone = mlp(), mlp()
    groups = [
        {"params": both[:3].parameters(), "lr": 0.1, "betas": (0.5, 0.9)},
        {"params": both[3:].parameters()},
    ]
    optimizer = AdaHessian(groups, lr=0.0)
    train(both, optimizer, range(3), exact_curvature(both))
    train(alone, AdaHessian(alone[:3].parameters(), 0.1, (0.5, 0.9)), range(3), exact_curvature(alone))
    for i in (0, 2):
        assert not torch.equal(both[i].weight, mlp()[i].weight)
    torch.testing.assert_close(both[0].weight, alone[0].weight, rtol=0, atol=0)
    assert torch.equal(both[4].weight, mlp()[4].weight)


def test_schedulers_of_torch_set_the_learning_rate():
    scheduled, by_hand = mlp(), mlp()
    optimizer = AdaHessian(scheduled.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)  # 0 at first
    train(scheduled, optimizer, range(4), exact_curvature(scheduled), scheduler=scheduler)
    other, curvature = AdaHessian(by_hand.parameters(), lr=0.0), exact_curvature(by_hand)
    for step in range(4):
        other.param_groups[0]["lr"] = 0.1 * (step / 4)
        train(by_hand, other, [step], curvature)
    assert all(torch.equal(p, q) for p, q in zip(scheduled.parameters(), by_hand.parameters(), strict=True))
    one_cycle = AdaHessian(mlp().parameters())
    torch.optim.lr_scheduler.OneCycleLR(one_cycle, max_lr=0.1, total_steps=10)  # also cycles betas
    assert one_cycle.param_groups[0]["betas"] == (0.95, 0.999)


@pytest.mark.parametrize(
    ("optimizer", "config"),
    [
        (AdaHessian, AdaHessianConfig),
        (HessianAdagrad, DenseHessianAdagradConfig),
        (Eigenbasis, EigenbasisConfig),
    ],
)
def test_defaults_are_those_of_the_program(optimizer, config):
    found = {
        name: p.default for name, p in inspect.signature(optimizer).parameters.items() if name != "params"
    }
    if "betas" in found:
        found["beta1"], found["beta2"] = found.pop("betas")
    expected = {name: value for name, value in vars(config()).items() if name in found}
    assert found == expected
    assert expected.keys() == vars(config()).keys() - {"name", "source"}


def test_a_closure_is_called_for_derivatives():
    model, (x, y) = mlp(), batch()
    optimizer, curvature = AdaHessian(model.parameters()), exact_curvature(model)

    def closure():
        optimizer.zero_grad()
        with curvature:
            loss = F.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
            loss.backward()
        return loss

    before = float(optimizer.step(closure).detach())
    assert float(closure().detach()) < before


def test_zero_grad_takes_curvature_away_and_frozen_parameters_stay():
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = AdaHessian(model.parameters())
    train(model, optimizer, range(2), exact_curvature(model))
    assert torch.equal(model[0].weight, mlp()[0].weight)
    assert model[2].weight.curvature is not None
    optimizer.zero_grad(set_to_none=False)
    assert model[2].weight.curvature is None


@pytest.mark.parametrize("kind", [AdaHessian, HessianAdagrad])
def test_a_first_step_without_curvature_is_refused(kind):
    model, (x, y) = mlp(), batch()
    optimizer = kind(model.parameters())
    F.binary_cross_entropy_with_logits(model(x).squeeze(1), y).backward()
    with pytest.raises(RuntimeError, match=r"one of shape \(6, 5\) has none. Run the backward pass within"):
        optimizer.step()


def test_settings_and_parameters_out_of_range_are_refused():
    with pytest.raises(UsageError, match="power must be less than or equal to 1, got 2"):
        AdaHessian(mlp().parameters(), power=2)
    with pytest.raises(ValueError, match="not be negative, but got lr=-1"):
        HessianAdagrad(mlp().parameters(), lr=-1)
    with pytest.raises(ValueError, match="got one of torch.bfloat16"):
        AdaHessian(mlp().bfloat16().parameters())


def test_curvature_of_ones_own_needs_its_shape_and_its_samples():
    p = nn.Parameter(torch.ones(3))
    optimizer = HessianAdagrad([p])
    p.grad, p.curvature = torch.ones(3), torch.ones(2)
    with pytest.raises(ValueError, match=r"\(3,\), but got \(2,\)"):
        optimizer.step()
    p.curvature = torch.ones(3)
    with pytest.raises(ValueError, match="no p.curvature_samples"):
        optimizer.step()
    p.curvature_samples = 4
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 0.01))  # the floor, 1, is above 1 / 4
