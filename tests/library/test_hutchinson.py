"""Test the estimate against the Hessian's diagonal from torch.autograd.functional."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dlrm_adahessian.library.hutchinson import hutchinson_curvature
from dlrm_adahessian.library.optimizers import AdaHessian
from tests.library.models import SAMPLES, batch, hessian_diagonals, mlp

pytestmark = pytest.mark.oracle


def test_the_mean_over_draws_is_the_diagonal_of_the_hessian_also_where_gelu_curves_it():
    model, (x, y) = mlp(nn.GELU), batch()

    def loss_of(z):
        return F.binary_cross_entropy_with_logits(z.squeeze(1), y)

    expected = hessian_diagonals(model, loss_of, x)
    curvature, draws = hutchinson_curvature(model), []
    for _ in range(300):
        model.zero_grad()
        with curvature:
            loss_of(model(x)).backward(create_graph=True)
        draws.append([p.curvature for p in model.parameters()])
    for found, diagonal in zip(zip(*draws, strict=True), expected.values(), strict=True):
        estimates = torch.stack(found)
        error = (estimates.mean(0) - diagonal).abs()
        assert (error <= 5 * estimates.std(0) / len(draws) ** 0.5 + 1e-12).all()


def test_one_draw_is_exact_where_the_hessian_is_diagonal_and_adds_up_over_blocks():
    """Inputs with one nonzero entry and a squared loss have a diagonal Hessian."""
    model, x = nn.Linear(3, 1, bias=False).double(), torch.diag(torch.tensor([1.0, 2.0, 3.0])).double()
    curvature = hutchinson_curvature(model, draws=2)
    for _ in range(2):
        with curvature:
            F.mse_loss(model(x).squeeze(1), x[0]).backward(create_graph=True)
    expected = 2 * (2 / 3 * x.diagonal().square())  # two losses
    torch.testing.assert_close(model.weight.curvature, expected.view(1, 3), rtol=1e-14, atol=0)
    assert float(model.weight.curvature_samples) == 6
    assert not model.weight.grad.requires_grad


class Parabola(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.a.square() + self.b


def test_a_parameter_that_the_loss_is_linear_in_has_no_curvature():
    model = Parabola()
    with hutchinson_curvature(model):
        model(torch.ones(4, 2)).mean(0).sum().backward(create_graph=True)
    assert model.a.curvature.tolist() == [2, 2]
    assert model.b.curvature.tolist() == [0, 0]


def test_optimizers_step_with_it():
    model, (x, y) = mlp(nn.Tanh), batch()
    optimizer, curvature, losses = AdaHessian(model.parameters()), hutchinson_curvature(model), []
    for _ in range(20):
        optimizer.zero_grad()
        with curvature:
            loss = F.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
            loss.backward(create_graph=True)
        assert float(model[0].weight.curvature_samples) == SAMPLES
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_a_gradient_without_graph_is_refused():
    model, (x, _) = mlp(), batch()
    with (
        pytest.raises(RuntimeError, match=r"Call backward\(create_graph=True\)"),
        hutchinson_curvature(model),
    ):
        model(x).sum().backward()


def test_no_draw_is_refused():
    with pytest.raises(ValueError, match="got draws=0"):
        hutchinson_curvature(mlp(), draws=0)
