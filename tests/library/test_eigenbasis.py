"""Test the Eigenbasis optimizer: derivatives against autograd, steps against the program's rule, and errors."""

import copy
import io
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call

from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.library.eigenbasis import Eigenbasis
from dlrm_adahessian.library.exact import exact_curvature
from dlrm_adahessian.library.optimizers import AdaHessian
from dlrm_adahessian.optim.dense import EigenbasisConfig
from tests.library.models import INPUTS, SAMPLES, batch, mlp, train

STEPS = 10
CASES = {
    "defaults": ({}, 1),
    "few directions": ({"rank": 2, "refresh": 2, "factor_decay": 0.5, "curvature_floor": 0.1}, 1),
    "a fraction of the samples": ({"rank": 2, "refresh": 2}, 0.7),
    "a sum": ({"accumulation": "sum", "sides": "input", "rank": 3, "eps": 1e-3}, 1),
    "coordinates": ({"sides": "none"}, 1),
}


def bce(model, x, y, **options):
    return F.binary_cross_entropy_with_logits(model(x).squeeze(1), y, **options)


def turned(steps=3, **settings):
    """Return a model whose bases have changed, its optimizer, and its exact_curvature."""
    model = mlp()
    optimizer = Eigenbasis(model.parameters(), rank=3, **settings)
    curvature = exact_curvature(model, optimizer=optimizer)
    train(model, optimizer, range(steps), curvature)
    optimizer.zero_grad()
    return model, optimizer, curvature


def matrices(optimizer, weight):
    """Return Q_S and Q_A of a weight."""
    (matrix,) = optimizer.basis_of(weight).matrices.values()
    return [
        torch.eye(size, dtype=weight.dtype) if side is None else side.matrix()
        for side, size in zip((matrix.output, matrix.input), weight.shape, strict=True)
    ]


@pytest.mark.oracle
def test_curvature_is_the_diagonal_of_the_hessian_in_the_basis_of_each_weight():
    model, optimizer, curvature = turned()
    x, y = batch(7)
    with curvature:
        bce(model, x, y).backward()
    named = {name: p.detach() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():

        def loss(flat, name=name):
            values = {**named, name: flat.view_as(named[name])}
            return F.binary_cross_entropy_with_logits(functional_call(model, values, x).squeeze(1), y)

        block = hessian(loss, named[name].reshape(-1))
        if p.ndim == 2:
            q = torch.kron(*matrices(optimizer, p))
            assert not torch.allclose(q.abs(), torch.eye(len(q), dtype=q.dtype))
            block = q.T @ block @ q
        torch.testing.assert_close(p.curvature.reshape(-1), block.diagonal(), rtol=1e-11, atol=1e-15)


@pytest.mark.oracle
def test_factors_are_sums_over_samples_of_outer_products():
    model, optimizer, curvature = turned()
    x, y = batch(7)
    u = torch.rand(SAMPLES, dtype=torch.float64) / SAMPLES
    with curvature:
        (bce(model, x, y, reduction="none") * u).sum().backward()
    weight = model[2].weight
    hidden = model[:2](x).detach()
    outputs = model[2](hidden).detach().requires_grad_()
    logits = model[3:](outputs).squeeze(1)
    (delta,) = torch.autograd.grad(logits.sum(), outputs)  # each logit depends on its own sample only
    w = u * (logits.sigmoid() * (1 - logits.sigmoid())).detach()
    of_outputs, of_inputs = weight.curvature_factors.split([4 * 4, 6 * 6])
    expected = torch.einsum("b,bi,bj->ij", w, delta, delta), torch.einsum("b,bi,bj->ij", u, hidden, hidden)
    torch.testing.assert_close(of_outputs.view(4, 4), expected[0], rtol=1e-11, atol=1e-16)
    torch.testing.assert_close(of_inputs.view(6, 6), expected[1], rtol=1e-11, atol=1e-16)
    assert weight.curvature_basis is optimizer.basis_of(weight)
    assert model[2].bias.curvature_basis is None


class Head(nn.Module):
    """A model with the interface that the program's estimators call."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, dense, pooled):
        return self.model(dense).squeeze(1) + pooled.sum((1, 2))


@pytest.mark.oracle
@pytest.mark.parametrize(("settings", "fraction"), CASES.values(), ids=CASES)
def test_steps_are_those_of_the_program_in_groups_and_with_a_schedule(settings, fraction):
    model = mlp()
    head = Head(copy.deepcopy(model))
    theirs = list(head.parameters())
    vector = torch.cat([p.detach().reshape(-1) for p in theirs])
    rule = EigenbasisConfig(lr=0.05, **settings).build(vector, [p.shape for p in theirs])
    estimator = ExactDiagonal(basis=rule.basis)
    groups = [{"params": model[:2].parameters()}, {"params": model[2:].parameters(), "lr": 0.01}]
    optimizer = Eigenbasis(groups, lr=0.05, **settings)
    # A step is linear in the learning rate.
    scale = torch.cat(
        [torch.full_like(p.detach().reshape(-1), 1.0 if i < 2 else 0.2) for i, p in enumerate(theirs)]
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    curvature = exact_curvature(model, every=2, fraction=fraction, optimizer=optimizer)
    for step in range(STEPS):
        x, y = batch(step)
        torch.nn.utils.vector_to_parameters(vector, theirs)
        samples = math.ceil(fraction * SAMPLES) if step % 2 == 0 else 0
        found = estimator(head, x, x.new_zeros(SAMPLES, 0, 1), y, curvature_samples=samples)
        moved = vector.clone()
        rule.step(moved, found.grad, found.curvature, lr_scale=1 / (1 + step), samples=SAMPLES)
        if found.factors is not None:
            rule.observe_(found.factors)
        vector = vector + scale * (moved - vector)
        train(model, optimizer, [step], curvature, scheduler=scheduler)
        ours = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        torch.testing.assert_close(ours, vector, rtol=0, atol=1e-12, msg=f"step {step}")


def test_a_loaded_state_goes_on_to_the_bit():
    def make(seed):
        model = mlp(seed=seed).float()
        optimizer = Eigenbasis(model.parameters(), rank=3, refresh=2)
        return model, optimizer, exact_curvature(model, every=2, optimizer=optimizer)

    first, second = make(0), make(9)
    train(*first[:2], range(5), first[2])
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    for model, optimizer, curvature in (first, second):
        train(model, optimizer, range(5, 2 * STEPS), curvature)
    for p, q in zip(first[0].parameters(), second[0].parameters(), strict=True):
        assert torch.equal(p, q)
        ours, theirs = first[1].state[p], second[1].state[q]
        assert {name: t.dtype for name, t in ours.items()} == {name: t.dtype for name, t in theirs.items()}
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_accumulated_parts_make_the_step_of_the_whole():
    ends = []
    for parts in ([slice(SAMPLES)], [slice(0, 3), slice(3, SAMPLES)]):
        model, optimizer, curvature = turned()
        for step in range(3, STEPS):
            x, y = batch(step)
            optimizer.zero_grad()
            with curvature:
                for part in parts:
                    (bce(model, x[part], y[part]) * len(y[part]) / SAMPLES).backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-11)


def test_a_step_takes_the_curvature_away_since_the_basis_may_have_turned():
    model, optimizer, curvature = turned(0)
    x, y = batch()
    with curvature:
        bce(model, x, y).backward()
    before = matrices(optimizer, model[0].weight)[1]
    optimizer.step()
    assert not torch.equal(matrices(optimizer, model[0].weight)[1], before)
    assert model[0].weight.curvature is None
    assert model[0].weight.curvature_factors is None
    optimizer.step()  # uses the gradient that is still there
    assert int(optimizer.state[model[0].weight]["observations"]) == 1


def test_zero_grad_takes_factors_away():
    model, optimizer, curvature = turned()
    x, y = batch()
    with curvature:
        bce(model, x, y).backward()
    optimizer.zero_grad()
    weight = model[0].weight
    assert weight.curvature_factors is None
    assert weight.curvature_basis is None


def test_autocast_turns_in_float32():
    """With one sample, rows of the curvature are proportional to its squared inputs in the basis, even small ones."""
    model, (x, y) = mlp().float(), batch()
    x, y = x.float() + 100, y.float()
    optimizer = Eigenbasis(model.parameters())
    curvature = exact_curvature(model, optimizer=optimizer)
    with curvature:
        bce(model, x, y).backward()
    optimizer.step()
    optimizer.zero_grad()
    with curvature, torch.autocast("cpu", torch.bfloat16):
        bce(model, x[:1], y[:1]).backward()
    found = model[0].weight.curvature.sum(0)
    turned = (x[0] @ matrices(optimizer, model[0].weight)[1]).double().square()
    assert turned.min() < 1e-3 * turned.max()
    torch.testing.assert_close(found.double() / found.sum(), turned / turned.sum(), rtol=1e-2, atol=0)


class Product(nn.Module):
    """Linear in each output of its layer, but curved in two of them jointly."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(INPUTS, 2)

    def forward(self, x):
        return self.layer(x).prod(1, keepdim=True)


def test_models_that_are_curved_along_a_layer_are_taken_in_coordinates_or_as_gauss_newton():
    model, (x, y) = Product().double(), batch()
    optimizer = Eigenbasis(model.parameters())
    with exact_curvature(model):
        bce(model, x, y).backward()
    model.zero_grad()
    says = "all weights of a layer jointly.* .at layer.. Use kind='gauss_newton'"
    with pytest.raises(ValueError, match=says), exact_curvature(model, optimizer=optimizer):
        model(x)
    train(model, optimizer, range(2), exact_curvature(model, kind="gauss_newton", optimizer=optimizer))
    with exact_curvature(model):
        model(x)


def test_gelu_is_taken_as_gauss_newton():
    model = mlp(nn.GELU)
    optimizer = Eigenbasis(model.parameters(), lr=0.02)
    losses = [float(bce(model, *batch()).detach())]
    train(model, optimizer, [1] * 5, exact_curvature(model, kind="gauss_newton", optimizer=optimizer))
    losses.append(float(bce(model, *batch()).detach()))
    assert losses[1] < losses[0]


def test_curvature_in_another_basis_is_refused_in_words():
    model, (x, y) = mlp(), batch()
    optimizer, other = Eigenbasis(model.parameters()), Eigenbasis(model.parameters())
    with pytest.raises(
        RuntimeError, match=r"has none. Run .* within `with exact_curvature\(model, optimizer="
    ):
        bce(model, x, y).backward()
        optimizer.step()
    for known in (None, other):
        optimizer.zero_grad()
        with exact_curvature(model, optimizer=known):
            bce(model, x, y).backward()
        with pytest.raises(RuntimeError, match=r"Eigenbasis found .*another basis.*optimizer=optimizer"):
            optimizer.step()
    with pytest.raises(RuntimeError, match=r"AdaHessian found .*another basis.*exact_curvature\(model\):"):
        AdaHessian(model.parameters()).step()
    with pytest.raises(ValueError, match="must be an Eigenbasis.*got AdaHessian. Omit it"):
        exact_curvature(model, optimizer=AdaHessian(model.parameters()))
