"""Test `p.curvature` of user models against the Hessian's diagonal from torch.autograd.functional, in float64."""

import copy
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlrm_adahessian.library.exact import exact_curvature
from tests.library.models import INPUTS, SAMPLES, batch, hessian_diagonals, mlp

pytestmark = pytest.mark.oracle


def bce(y, **options):
    return lambda z: F.binary_cross_entropy_with_logits(z.squeeze(1), y, **options)


def assert_curvature_is(model, expected, rtol=1e-12):
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.curvature, expected[name], rtol=rtol, atol=1e-16, msg=name)


def positive(seed):
    return torch.rand(SAMPLES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SOFT = positive(2)
LOSSES = {
    "mean": bce(batch()[1]),
    "sum": bce(batch()[1], reduction="sum"),
    "weights": bce(batch()[1], weight=positive(3)),
    "a weight of 0": bce(batch()[1], weight=positive(3).round()),
    "positive weight": bce(batch()[1], pos_weight=torch.tensor(3.0)),
    "a module": lambda z: nn.BCEWithLogitsLoss()(z[:, 0], batch()[1]),
    "unsqueezed": lambda z: F.binary_cross_entropy_with_logits(z, batch()[1].unsqueeze(1)),
    "own mean": lambda z: (bce(batch()[1], reduction="none")(z) * positive(4)).sum() / 7,
    "soft labels": bce(SOFT),
    "two losses": lambda z: 0.3 * bce(batch()[1])(z) + 2 * bce(SOFT, reduction="sum")(z),
    "squared": lambda z: F.mse_loss(z.squeeze(1), SOFT),
    "weighted squares": lambda z: F.mse_loss(z.squeeze(1), SOFT, weight=positive(5)),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_curvature_is_the_diagonal_of_the_hessian_and_the_gradient_is_as_without(loss):
    model, (x, _) = mlp(), batch()
    loss(model(x)).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with exact_curvature(model):
        loss(model(x)).backward()
    assert_curvature_is(model, hessian_diagonals(model, loss, x))
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))


@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bias", [0.0, 40.0, -40.0])
def test_slopes_that_are_zero_to_the_bit_and_confident_samples_keep_their_curvature(label, bias):
    """With a zero last layer, p - 0.5 is 0. Near a logit of 40, p rounds to 1."""
    model, (x, _) = mlp(), batch()
    with torch.no_grad():
        model[-1].weight *= float(bias != 0)
        model[-1].bias.fill_(bias)
    y = torch.full((SAMPLES,), label, dtype=torch.float64)
    with exact_curvature(model):
        loss_of = bce(y)
        loss_of(model(x)).backward()
    z = model(x).detach().squeeze(1)
    expected = (z.sigmoid() * (-z).sigmoid()).mean()  # dz/db is 1
    torch.testing.assert_close(model[-1].bias.curvature, expected.view(1), rtol=1e-12, atol=0)


class Residual(nn.Module):
    """Two inputs, residual layers with separate parameters, a layer without bias, and dropout with a fixed mask."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(INPUTS, INPUTS, bias=False), nn.Linear(INPUTS, INPUTS)
        self.out = nn.Linear(INPUTS, 1)
        self.frozen = nn.BatchNorm1d(INPUTS).eval().requires_grad_(False)
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0]))

    def forward(self, numbers, *, ids):
        a = numbers + self.first(self.frozen(numbers)).abs() * self.mask
        a = a + F.relu(self.second(a)) * numbers
        return self.out(a * (1 + ids.unsqueeze(1))).squeeze(1)


def test_residuals_products_with_data_and_frozen_modules_are_exact():
    model, (x, y) = Residual().double(), batch()
    ids = torch.arange(SAMPLES) % 3
    with exact_curvature(model):
        F.binary_cross_entropy_with_logits(model(x, ids=ids), y).backward()

    class Bound(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x, ids=ids)

    trained = {f"model.{name}": p for name, p in model.named_parameters() if p.requires_grad}
    expected = hessian_diagonals(Bound(), lambda z: F.binary_cross_entropy_with_logits(z, y), x)
    for name, p in trained.items():
        torch.testing.assert_close(p.curvature, expected[name], rtol=1e-12, atol=1e-16)
    assert not hasattr(model.frozen.weight, "curvature")


def test_dropout_draws_in_training_what_it_drew_for_the_gradient():
    model, (x, y) = mlp(lambda: nn.Dropout(0.4)), batch()
    torch.manual_seed(7)
    with exact_curvature(model):
        bce(y)(model(x)).backward()
    inputs = []
    model[-1].register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    torch.manual_seed(7)
    z = model(x).squeeze(1)
    w = (z.sigmoid() * (-z).sigmoid()).detach() / SAMPLES
    torch.testing.assert_close(
        model[-1].weight.curvature, (w @ inputs[0].square()).view(1, -1), rtol=1e-12, atol=0
    )


def test_one_layer_alone_is_a_model():
    torch.manual_seed(0)
    model, (x, y) = nn.Linear(INPUTS, 1).double(), batch()
    with exact_curvature(model):
        bce(y)(model(x)).backward()
    assert_curvature_is(model, hessian_diagonals(model, bce(y), x))


def test_curvature_adds_up_over_backward_passes_as_gradients_do_and_counts_their_samples():
    whole, (x, y) = mlp(), batch()
    parts = copy.deepcopy(whole)
    with exact_curvature(whole):
        bce(y)(whole(x)).backward()
    with exact_curvature(parts):
        for part in (slice(0, 3), slice(3, SAMPLES)):
            (bce(y[part])(parts(x[part])) * len(y[part]) / SAMPLES).backward()
    assert_curvature_is(parts, {name: p.curvature for name, p in whole.named_parameters()})
    assert float(parts[0].weight.curvature_samples) == pytest.approx(SAMPLES, rel=1e-12)


def test_two_forward_passes_make_one_loss():
    model, (x, y) = mlp(), batch()
    with exact_curvature(model, every=2):
        (bce(y[:3])(model(x[:3])) + bce(y[3:])(model(x[3:]))).backward()

    def loss_of(z):
        return bce(y[:3])(z[:3]) + bce(y[3:])(z[3:])

    assert_curvature_is(model, hessian_diagonals(model, loss_of, x))


@pytest.mark.parametrize(("fraction", "counted"), [(0.3, 4), (0.5, 6), (1e-9, 1)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_fraction_is_of_the_first_samples_in_the_scale_of_all(fraction, counted, reduction):
    model, (x, y) = mlp(), batch()
    weight = 1 + torch.arange(SAMPLES, dtype=torch.float64)
    bce(y, weight=weight, reduction=reduction)(model(x)).backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with exact_curvature(model, fraction=fraction):
        bce(y, weight=weight, reduction=reduction)(model(x)).backward()
    first = slice(counted)
    scale = weight.sum() / weight[first].sum() / (SAMPLES if reduction == "mean" else 1)
    loss_of_first = bce(y[first], weight=weight[first] * scale, reduction="sum")
    assert_curvature_is(model, hessian_diagonals(model, loss_of_first, x[first]))
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), grads, strict=True))


def test_a_fraction_whose_samples_weigh_nothing_has_no_curvature():
    model, (x, y) = mlp(), batch()
    with exact_curvature(model, fraction=0.25):
        bce(y, weight=(torch.arange(SAMPLES) > 5).double())(model(x)).backward()
    assert all(torch.equal(p.curvature, torch.zeros_like(p)) for p in model.parameters())


@pytest.mark.parametrize(
    ("loss", "samples"),
    [("mean", SAMPLES), ("sum", 1), ("squared", SAMPLES), ("a weight of 0", SAMPLES)],
)
def test_samples_are_what_the_gradient_s_expected_square_is_divided_by(loss, samples):
    model, (x, _) = mlp(), batch()
    with exact_curvature(model):
        LOSSES[loss](model(x)).backward()
    assert float(model[0].weight.curvature_samples) == pytest.approx(samples, rel=1e-12)


@pytest.mark.parametrize("around_all", [True, False])
def test_curvature_comes_every_few_steps_also_after_a_restart_and_is_gone_between(around_all):
    model, (x, y) = mlp(), batch()
    curvature, seen = exact_curvature(model, every=3), []
    with curvature if around_all else nullcontext():
        for step in range(8):
            if step == 5 and not around_all:
                state = curvature.state_dict()
                curvature = exact_curvature(model, every=3)
                curvature.load_state_dict(state)
            model.zero_grad()
            with nullcontext() if around_all else curvature:
                with torch.no_grad():
                    model(x)  # computing outputs is not a step
                for _ in range(2):
                    bce(y)(model(x)).backward()
            seen.append(model[0].weight.curvature is not None)
    assert seen == [step % 3 == 0 for step in range(8)]


def test_the_model_is_as_before_after_the_block():
    model, (x, y) = mlp(), batch()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with exact_curvature(model):
        bce(y)(model(x)).backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    kept = model[0].weight.curvature.clone()
    bce(y)(model(x)).backward()
    assert torch.equal(model[0].weight.curvature, kept)


def test_autocast_to_bfloat16_rounds_the_curvature_and_keeps_it_in_float32():
    model, (x, y) = mlp(), batch()
    expected = hessian_diagonals(model, bce(y), x)
    model.float()
    with exact_curvature(model), torch.autocast("cpu", torch.bfloat16):
        bce(y.float())(model(x.float())).backward()
    for name, p in model.named_parameters():
        assert p.curvature.dtype == torch.float32
        # Activations and gradients of three layers have 8 significant bits each and are then squared.
        largest = float(expected[name].max())
        torch.testing.assert_close(
            p.curvature.double(), expected[name], rtol=0, atol=12 * 2**-8 * largest, msg=name
        )


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, 1)

    def forward(self, x):
        return self.out(self.layer(self.layer(x).relu()))


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, 1)

    def forward(self, x):
        return self.out(self.layer(x).square())


def normed(norm):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(INPUTS, 4), norm(4), nn.ReLU(), nn.Linear(4, 1)).double()


LAYER_NORM = partial(nn.LayerNorm, elementwise_affine=False)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (mlp(nn.GELU), "curved in its weights .at 0.*kind='gauss_newton'"),
        (mlp(nn.Tanh), "curved in its weights .at 0."),
        (Square(), "curved in its weights .at layer."),
        (Twice(), "layer ran 2 times"),
        (nn.Sequential(nn.Linear(INPUTS, 4), nn.LayerNorm(4), nn.Linear(4, 1)), "belongs to LayerNorm. Freeze it"),
        (normed(LAYER_NORM), "curved in its weights .at 0."),
        (nn.Sequential(nn.Linear(INPUTS, 4), nn.ReLU(), nn.Linear(4, 2)), r"one output per sample.*\(8, 2\)"),
        (nn.Sequential(nn.Flatten()), "has none"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)  # fmt: skip
def test_models_without_exact_curvature_are_refused_in_words(model, says):
    with pytest.raises(ValueError, match=says), exact_curvature(model):
        model.double()(batch()[0])


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
@pytest.mark.parametrize("affine", [False, True])
def test_batch_norm_is_refused_for_its_statistics(kind, affine):
    model = normed(partial(nn.BatchNorm1d, affine=affine))
    says = r"depend on their own sample only, but .*BatchNorm1d. computes statistics of the batch. Use nn.LayerNorm"
    with pytest.raises(ValueError, match=says), exact_curvature(model, kind=kind):
        model(batch()[0])


@pytest.mark.parametrize("model", [mlp(nn.GELU), normed(LAYER_NORM)], ids=["gelu", "layer norm"])
def test_what_curves_the_logit_has_the_diagonal_of_the_gauss_newton_matrix_by_that_name(model):
    x, y = batch()
    with exact_curvature(model, kind="gauss_newton"):
        bce(y)(model(x)).backward()
    rows = []
    for logit in model(x).squeeze(1):
        model.zero_grad()
        logit.backward(retain_graph=True)
        rows.append(model[0].weight.grad.square() * logit.sigmoid().detach() * (-logit).sigmoid().detach())
    expected = torch.stack(rows).mean(0)
    torch.testing.assert_close(model[0].weight.curvature, expected, rtol=1e-12, atol=0)


@pytest.mark.slow  # torch.compile takes seconds to import
def test_a_compiled_model_is_refused():
    with pytest.raises(ValueError, match="the model is compiled. Use the model from before"):
        exact_curvature(torch.compile(mlp()))


def test_arguments_and_types_out_of_range_are_refused():
    model, (x, y) = mlp(), batch()
    with pytest.raises(ValueError, match="got every=0"):
        exact_curvature(model, every=0)
    with pytest.raises(ValueError, match="got fraction=0. Use 1 for all"):
        exact_curvature(model, fraction=0)
    with pytest.raises(ValueError, match="hessian, gauss_newton, but got 'fisher'"):
        exact_curvature(model, kind="fisher")
    with pytest.raises(ValueError, match="found none with a row"), exact_curvature(model):
        model(x[:0])
    with pytest.raises(ValueError, match="Use reduction"), exact_curvature(model):
        F.mse_loss(model(x).squeeze(1), y, size_average=False)
    with pytest.raises(ValueError, match="Use bfloat16"), exact_curvature(model.half()):
        model(x.half())


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda z, y: F.binary_cross_entropy(z.sigmoid(), y),
        lambda z, y: F.binary_cross_entropy_with_logits(2 * z, y),
        lambda z, y: F.binary_cross_entropy_with_logits(z.float(), y.float()),
    ],
)
def test_a_loss_that_was_not_seen_is_refused(loss_of):
    model, (x, y) = mlp(), batch()
    with pytest.raises(RuntimeError, match="saw no loss of the model's outputs"), exact_curvature(model):
        loss_of(model(x).squeeze(1), y).backward()


def test_a_term_of_the_outputs_beside_the_loss_is_refused_and_a_weight_penalty_is_not():
    model, (x, y) = mlp(), batch()
    with pytest.raises(RuntimeError, match="outputs in other ways too"), exact_curvature(model):
        z = model(x)
        (bce(y)(z) + 1e-3 * z.square().mean()).backward()
    model.zero_grad()
    with exact_curvature(model):
        (bce(y)(model(x)) + model[0].weight.square().sum()).backward()
    assert_curvature_is(model, hessian_diagonals(model, bce(y), x))


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, F.mse_loss])
def test_a_loss_of_all_pairs_is_refused(loss):
    model, (x, y) = mlp(), batch()
    with pytest.raises(ValueError, match=r"one shape|same as input size"), exact_curvature(model):
        loss(model(x), y)
