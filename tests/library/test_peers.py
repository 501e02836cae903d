"""Compare our diagonal and steps with those of other libraries in float64. Each test needs the library it names."""

import copy

import pytest
import torch
from torch import nn

from dlrm_adahessian.library.exact import exact_curvature
from dlrm_adahessian.library.hutchinson import hutchinson_curvature
from dlrm_adahessian.library.optimizers import AdaHessian
from dlrm_adahessian.presets import optimizer_preset
from tests.library.models import batch, mlp

pytestmark = pytest.mark.oracle

LOSSES = [nn.BCEWithLogitsLoss, nn.MSELoss]


def curvature_of(model, loss, x, y):
    with exact_curvature(model):
        loss(model(x), y).backward()
    return [p.curvature for p in model.parameters()]


def assert_equal(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-16)


@pytest.mark.filterwarnings(
    "ignore:Full backward hook is firing"
)  # raised by BackPACK if inputs need no gradient
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("extension", ["DiagGGNExact", "DiagHessian"])
def test_curvature_is_backpack_s_diagonal(extension, loss):
    backpack = pytest.importorskip("backpack", reason="needs the extra peers")
    extensions = pytest.importorskip("backpack.extensions")
    model, (x, y) = mlp(), batch()
    theirs, their_loss = backpack.extend(copy.deepcopy(model)), backpack.extend(loss())
    by = getattr(extensions, extension)()
    with backpack.backpack(by):
        their_loss(theirs(x), y.unsqueeze(1)).backward()
    expected = [getattr(p, by.savefield) for p in theirs.parameters()]
    assert_equal(curvature_of(model, loss(), x, y.unsqueeze(1)), expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("operator", ["GGNLinearOperator", "HessianLinearOperator"])
def test_curvature_is_the_diagonal_of_a_linear_operator_of_curvlinops(operator, loss):
    curvlinops = pytest.importorskip("curvlinops", reason="needs the extra peers")
    model, (x, y) = mlp(), batch()
    parameters = list(model.parameters())
    matrix = getattr(curvlinops, operator)(model, loss(), parameters, [(x, y.unsqueeze(1))])
    diagonal = (matrix @ torch.eye(matrix.shape[0], dtype=torch.float64)).diagonal()
    pieces = diagonal.split([p.numel() for p in parameters])
    expected = [piece.view_as(p) for piece, p in zip(pieces, parameters, strict=True)]
    assert_equal(curvature_of(model, loss(), x, y.unsqueeze(1)), expected)


def paper(**changes):
    """Return the settings of the authors' code for our AdaHessian, and those for pytorch_optimizer's."""
    dense = optimizer_preset("adahessian_paper")["optim"]["dense"]
    shared = {"lr": dense["lr"], "eps": dense["eps"], "weight_decay": 0.1} | changes
    ours = {"average_rows": dense["average_rows"], "curvature_floor": dense["curvature_floor"]}
    return {"power": dense["power"], **ours, **shared}, {"hessian_power": dense["power"], **shared}


def backward(model, create_graph):
    x, y = batch()
    nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y).backward(create_graph=create_graph)


@pytest.mark.filterwarnings("ignore:Using backward")  # create_graph, which the estimate needs
def test_adahessian_without_averages_steps_as_pytorch_optimizer_s_with_the_same_signs():
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    model = mlp(nn.GELU)
    theirs = copy.deepcopy(model)
    settings, their_settings = paper()
    ours = AdaHessian(model.parameters(), **(settings | {"average_rows": False}))
    rival = package.AdaHessian(theirs.parameters(), **their_settings)
    curvature = hutchinson_curvature(model, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(3)  # seeds the signs of pytorch_optimizer
    for _ in range(5):
        model.zero_grad()
        theirs.zero_grad()
        with curvature:
            backward(model, create_graph=True)
        backward(theirs, create_graph=True)
        ours.step()
        rival.step()
        assert_equal(model.parameters(), theirs.parameters())


def test_what_the_authors_code_does_beyond_pytorch_optimizer_is_the_mean_over_rows():
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    model = mlp()
    theirs = copy.deepcopy(model)
    settings, their_settings = paper()
    ours, rival = (
        AdaHessian(model.parameters(), **settings),
        package.AdaHessian(theirs.parameters(), **their_settings),
    )
    generator = torch.Generator().manual_seed(4)
    for _ in range(5):
        model.zero_grad()
        theirs.zero_grad()
        backward(model, create_graph=False)
        backward(theirs, create_graph=False)
        given = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model.parameters()]
        for p, curvature in zip(model.parameters(), given, strict=True):
            p.curvature, p.curvature_samples = curvature, 1
        ours.step()
        rival.step(hessian=[c if c.dim() == 1 else c.abs().mean(1, keepdim=True).expand_as(c) for c in given])
        assert_equal(model.parameters(), theirs.parameters())


def test_where_curvature_pauses_pytorch_optimizer_corrects_for_steps_and_we_for_updates():
    """After one update, v is (1 - b) h^2. We divide it by 1 - b; they divide it by 1 - b^2 in their second step."""
    package = pytest.importorskip("pytorch_optimizer", reason="needs the extra rivals")
    beta = 0.9
    settings, their_settings = paper(eps=0.0, weight_decay=0.0, betas=(0.9, beta))
    one, two = (nn.Parameter(torch.zeros(3, dtype=torch.float64)) for _ in range(2))
    ours, rival = AdaHessian([one], **settings), package.AdaHessian([two], **their_settings, update_period=2)
    moved = []
    for step in range(2):
        before = one.detach().clone(), two.detach().clone()
        one.grad = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
        two.grad = one.grad.clone()
        one.curvature = torch.tensor([2.0, 4.0, 0.5], dtype=torch.float64) if step == 0 else None
        one.curvature_samples = 1
        ours.step()
        rival.step(hessian=[one.curvature] if step == 0 else None)
        moved.append((one.detach() - before[0], two.detach() - before[1]))
    torch.testing.assert_close(moved[0][0], moved[0][1], rtol=1e-12, atol=0)
    torch.testing.assert_close(moved[1][1], moved[1][0] * (1 + beta) ** 0.5, rtol=1e-12, atol=0)
