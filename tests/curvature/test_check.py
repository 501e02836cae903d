from functools import partial

import pytest
import torch
from torch import nn

from dlrm_adahessian.curvature.check import measured
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.curvature.parts import Parts
from dlrm_adahessian.optim.basis import KroneckerBasis
from tests.curvature import heads
from tests.curvature.heads import BATCH, WIDTH, Mlp, batch, made

pytestmark = pytest.mark.oracle
GAUSS_NEWTON = partial(ExactDiagonal, kind="gauss_newton")
EXACT = {
    "plain": heads.Mlp,
    "residual": heads.Residual,
    "dropout, a mask for all samples": heads.FixedDropout,
    "dropout, a mask of each sample": partial(heads.FixedDropout, (BATCH, 5)),
    "factorization machine": heads.FactorizationMachine,
    "frozen parts": heads.FrozenNorm,
    "frozen batch norm": heads.FROZEN_BATCH_NORMED,
}
WEIGHTS_ALONE = {
    "one cross": heads.Crosses,
    "two crosses": partial(heads.Crosses, 2),
    "two units multiplied": heads.TwoUnitsMultiplied,
}
CURVED = {
    "own projection": (
        heads.TimesOwnProjection,
        "weights .at first. and pooled .at feature [01], counted from 0.",
    ),
    "a sequence with a forward of its own": (heads.OfSquaredSequence, "weights .at first. and pooled"),
    "tanh in glue": (heads.TanhInGlue, "weights .at first. and pooled"),
    "layer norm": (heads.LAYER_NORMED, "weights .at first. and pooled"),
}
OF_THE_BATCH = (
    r"logits that depend on their own sample only, but norm .BatchNorm1d. computes statistics of the batch. Use "
    r"nn.LayerNorm.elementwise_affine=False. with the Gauss-Newton matrix"
)
REFUSED = {
    "overwritten in place": (
        heads.Inplace,
        "gradient of first is not their product. .* nn.ReLU.inplace=True",
    ),
    "called twice": (heads.CalledTwice, "again ran 2 times"),
    "never called": (heads.NeverCalled, "first ran 0 times"),
    "weight read twice": (heads.WeightReadTwice, "gradient of first is not their product"),
    "rows of features": (
        partial(heads.OfEachFeature, reshaped=True),
        r"token got \(12, 2\) for B = 6. Change the shape, or use curvature hutchinson",
    ),
    "features": (partial(heads.OfEachFeature, reshaped=False), r"token got \(6, 2, 2\) for B = 6"),
    "rows of other samples": (heads.RowsReversed, "depends on first of others"),
    "centered over the batch": (heads.CenteredOverTheBatch, "depends on pooled of others"),
    "batch norm": (heads.BATCH_NORMED, OF_THE_BATCH),
    "trained batch norm": (heads.TRAINED_BATCH_NORMED, OF_THE_BATCH),
    "batch norm without statistics of its own": (heads.ALWAYS_OF_THE_BATCH, OF_THE_BATCH),
    "trained layer norm": (heads.TRAINED_LAYER_NORMED, "norm.weight belongs to LayerNorm. Freeze it"),
    "own parameter": (heads.Scaled, r"scale belongs to Scaled. Freeze it"),
    "shared parameter": (heads.Shared, "one.weight and other.weight are the same"),
    "no gradients": (heads.WithoutGradients, "first runs without gradients"),
}


def relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kind", EXACT.values(), ids=EXACT)
def test_a_head_that_passes_has_the_diagonal_of_the_brute_force_hessian(kind):
    head, (dense, pooled, labels) = made(kind), batch()
    assert measured(head, dense, pooled).parts == Parts(weights="hessian", pooled="hessian")
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    weights, of_pooled = heads.hessian_diagonals(head, dense, pooled, labels)
    assert relative_error(found.curvature, weights) < 1e-12
    assert relative_error(found.pooled_curvature, of_pooled) < 1e-12


def test_a_mask_of_each_sample_may_be_of_more_samples_than_are_measured():
    head, (dense, pooled, labels) = made(heads.FixedDropout, (12, 5)), batch(12)
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=12)
    weights, of_pooled = heads.hessian_diagonals(head, dense, pooled, labels)
    assert relative_error(found.curvature, weights) < 1e-12
    assert relative_error(found.pooled_curvature, of_pooled) < 1e-12


@pytest.mark.parametrize("kind", WEIGHTS_ALONE.values(), ids=WEIGHTS_ALONE)
def test_what_multiplies_its_inputs_is_the_hessian_at_the_weights_alone(kind):
    head, (dense, pooled, labels) = made(kind), batch()
    assert measured(head, dense, pooled).parts == Parts(weights="hessian", pooled="gauss_newton")
    with pytest.raises(
        ValueError,
        match=r"curved in its pooled .at feature [01], counted from 0.. Use curvature gauss_newton",
    ):
        ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    found = GAUSS_NEWTON()(head, dense, pooled, labels, curvature_samples=BATCH)
    weights, of_pooled = heads.hessian_diagonals(head, dense, pooled, labels)
    assert relative_error(found.curvature, weights) < 1e-12
    assert relative_error(found.pooled_curvature, of_pooled) > 0.1
    assert (
        relative_error(found.pooled_curvature, heads.gauss_newton_diagonals(head, dense, pooled)[1]) < 1e-12
    )


@pytest.mark.parametrize(("kind", "where"), CURVED.values(), ids=CURVED)
def test_a_curved_head_is_refused_by_place_and_has_the_gauss_newton_diagonal(kind, where):
    head, (dense, pooled, labels) = made(kind), batch()
    with pytest.raises(ValueError, match=f"curved in its {where}"):
        ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    found = GAUSS_NEWTON()(head, dense, pooled, labels, curvature_samples=BATCH)
    weights, of_pooled = heads.gauss_newton_diagonals(head, dense, pooled)
    assert relative_error(found.curvature, weights) < 1e-12
    assert relative_error(found.pooled_curvature, of_pooled) < 1e-12
    hessian = heads.hessian_diagonals(head, dense, pooled, labels)
    assert relative_error(found.curvature, hessian[0]) > 1e-3
    assert relative_error(found.pooled_curvature, hessian[1]) > 1e-3


@pytest.mark.parametrize("estimator", [ExactDiagonal, GAUSS_NEWTON])
@pytest.mark.parametrize(("kind", "why"), REFUSED.values(), ids=REFUSED)
def test_what_one_pass_does_not_see_is_refused_by_name(kind, why, estimator):
    dense, pooled, labels = batch()
    with pytest.raises(ValueError, match=why):
        estimator()(made(kind), dense, pooled, labels, curvature_samples=BATCH)


def test_one_sample_is_enough_to_see_that_samples_are_mixed():
    dense, pooled, labels = batch(1)
    for kind in (heads.CenteredOverTheBatch, heads.RowsReversed):
        with pytest.raises(ValueError, match="of others"):
            ExactDiagonal()(made(kind), dense, pooled, labels, curvature_samples=1)
    assert measured(made(Mlp), dense, pooled).parts.pooled == "hessian"


def test_a_last_layer_of_zeros_hides_nothing():
    head, (dense, pooled, _) = made(heads.TanhInGlue), batch()
    nn.init.zeros_(head.last.weight)
    assert measured(head, dense, pooled).parts == Parts(weights="gauss_newton", pooled="gauss_newton")
    head = made(heads.Crosses)
    nn.init.zeros_(head.last.weight)
    assert measured(head, dense, 0 * pooled).parts == Parts(weights="hessian", pooled="gauss_newton")


class OneCurvedFeature(Mlp):
    def read(self, dense, pooled):
        curved = torch.cat([pooled[:, :17], pooled[:, 17:18].square(), pooled[:, 18:]], 1)
        return super().read(dense, curved)


def test_one_curved_feature_among_many_is_found():
    head, (dense, pooled, _) = made(OneCurvedFeature, 3 + 26 * WIDTH), batch(8, 26)
    found = measured(head, dense, pooled)
    assert found.parts == Parts(weights="hessian", pooled="gauss_newton")
    assert found.curved_at == {"pooled": "feature 17, counted from 0"}


def test_dropout_draws_as_it_will_and_leaves_no_trace():
    head, (dense, pooled, labels) = made(heads.Mlp), batch()
    head.last = nn.Sequential(nn.Dropout(0.4), head.last).double()
    torch.manual_seed(1)
    expected = head(dense, pooled)
    torch.manual_seed(1)
    found = ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    assert torch.equal(found.logits, expected)


def test_measuring_changes_neither_parameters_nor_buffers():
    head, (dense, pooled, _) = made(heads.BATCH_NORMED), batch()
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    with pytest.raises(ValueError, match="BatchNorm"):
        measured(head, dense, pooled)
    assert all(torch.equal(tensor, before[name]) for name, tensor in head.state_dict().items())
    assert all(p.grad is None for p in head.parameters())


class Counted(Mlp):
    calls = 0

    def forward(self, dense, pooled):
        type(self).calls += 1
        return super().forward(dense, pooled)


def test_a_head_is_measured_once_and_not_at_all_where_its_parts_are_given():
    head, (dense, pooled, labels) = made(Counted), batch()
    Counted.calls = 0
    trusting = ExactDiagonal(parts=Parts(weights="hessian", pooled="hessian"))
    trusting(head, dense, pooled, labels, curvature_samples=BATCH)
    assert Counted.calls == 1
    measuring = ExactDiagonal()
    for _ in range(3):
        measuring(head, dense, pooled, labels, curvature_samples=0)
    assert Counted.calls == 1 + 4


def test_parts_that_are_not_the_hessians_are_refused_without_a_batch():
    parts = Parts(weights="hessian", pooled="gauss_newton")
    with pytest.raises(ValueError, match="curved in its pooled. Use curvature gauss_newton"):
        ExactDiagonal(parts=parts)
    ExactDiagonal(kind="gauss_newton", parts=parts)


def test_a_basis_needs_a_logit_linear_in_a_whole_layer():
    head, (dense, pooled, labels) = made(heads.TwoUnitsMultiplied), batch()
    parameters = torch.cat([p.detach().reshape(-1) for p in head.parameters()])
    shapes = [p.shape for p in head.parameters()]
    basis = KroneckerBasis(parameters, shapes, sides="both", rank=2, decay=0.9, diagonal=True)
    with pytest.raises(ValueError, match="curved in its weights .at first. and pooled"):
        ExactDiagonal(basis=basis)(head, dense, pooled, labels, curvature_samples=BATCH)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * 3 * ctx.saved_tensors[0] ** 2


class Cubed(Mlp):
    def hidden(self, x):
        return OnceDifferentiable.apply(self.first(x))


def test_what_autograd_cannot_differentiate_twice_is_gauss_newton_at_best():
    head, (dense, pooled, labels) = made(Cubed), batch()
    with pytest.raises(ValueError, match="weights .at first, where autograd cannot differentiate it twice"):
        ExactDiagonal()(head, dense, pooled, labels, curvature_samples=BATCH)
    found = GAUSS_NEWTON()(head, dense, pooled, labels, curvature_samples=BATCH)
    weights, _ = heads.gauss_newton_diagonals(head, dense, pooled)
    assert relative_error(found.curvature, weights) < 1e-12


class Single(Mlp):
    def read(self, dense, pooled):
        return super().read(dense.float(), pooled.float())


def test_a_head_that_does_not_run_in_float64_is_refused_with_the_reason():
    dense, pooled, labels = (tensor.float() for tensor in batch())
    with pytest.raises(ValueError, match=r"which failed: .*dtype.*ExactDiagonal\(parts="):
        ExactDiagonal()(made(Single).float(), dense, pooled, labels, curvature_samples=BATCH)


class Column(Mlp):
    def forward(self, dense, pooled):
        return super().forward(dense, pooled).unsqueeze(1)


def test_logits_of_another_shape_and_logits_that_are_no_numbers_are_refused():
    dense, pooled, _ = batch()
    with pytest.raises(ValueError, match=r"logits of shape \(B,\), but got \(6, 1\) for B = 6"):
        measured(made(Column), dense, pooled)
    with pytest.raises(ValueError, match="finite logits"):
        measured(made(Mlp), dense * torch.nan, pooled)


def test_a_head_without_pooled_embeddings_has_nothing_curved_there():
    dense, pooled, labels = batch(features=0)
    head = made(Mlp, 3)
    assert measured(head, dense, pooled).parts == Parts(weights="hessian", pooled="hessian")
    found = ExactDiagonal(pooled="none")(head, dense, pooled, labels, curvature_samples=BATCH)
    assert relative_error(found.curvature, heads.gauss_newton_diagonals(head, dense, pooled)[0]) < 1e-12
