"""Compare logits and curvature of all architectures with independent formulas, and check their memory estimates."""

import pytest
import torch

from dlrm_adahessian.curvature.check import measured
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.model.config import DCNv2Config, DeepFMConfig, DLRMConfig, dense_memory
from tests.oracles import (
    BATCH,
    PARTS,
    WIDTH,
    gauss_newton,
    hessian,
    plain_logits,
    pooled_of,
    small_batch,
    small_config,
    small_head,
)

pytestmark = pytest.mark.oracle

CASES: dict[str, dict[str, object]] = {
    "dlrm": {"name": "dlrm"},
    "deepfm": {"name": "deepfm"},
    "dcnv2": {"name": "dcnv2"},
    "dcnv2, low rank": {"name": "dcnv2", "rank": 2, "crosses": 2},
    "dcnv2, parallel": {"name": "dcnv2", "structure": "parallel", "crosses": 2},
    "dcnv2, parallel, low rank": {"name": "dcnv2", "structure": "parallel", "rank": 2, "crosses": 1},
}
WIDE: dict[str, dict[str, object]] = {
    "dlrm": {"bottom": (300,)},
    "deepfm": {"deep": (300,)},
    "dcnv2": {"deep": (300,)},
}
all_cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
all_sizes = pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)


def require_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare with an absolute tolerance, because entries that cancel to near 0 keep the error of their terms."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * largest)


@all_cases
@all_sizes
def test_logits_are_those_of_the_formulas_written_down_again(sizes, case):
    for changes in (case, {**case, "activation": "gelu"}):
        head = small_head(*sizes, **changes)
        dense, tables, hits, _ = small_batch(2, *sizes)
        pooled = pooled_of(tables, hits)
        expected = plain_logits(dict(head.named_parameters()), small_config(**changes), dense, pooled)
        torch.testing.assert_close(head(dense, pooled), expected, rtol=1e-12, atol=1e-12)


@all_cases
@all_sizes
@pytest.mark.parametrize("hidden", [(), (5,), (5, 3)])
def test_the_settings_know_the_number_of_parameters(sizes, case, hidden):
    name = "top" if case["name"] == "dlrm" else "deep"
    for more in ({}, {"self_interaction": True}) if name == "top" else ({},):
        changes = {**case, **more, name: hidden}
        made = sum(p.numel() for p in small_head(*sizes, **changes).parameters())
        assert small_config(**changes).parameters(*sizes) == made


@all_cases
@all_sizes
def test_the_diagonal_of_one_pass_is_that_of_the_matrix_which_the_head_names(sizes, case):
    """The whole block of each weight matrix is equal too, so its diagonal is exact in any basis."""
    head, cfg = small_head(*sizes, **case), small_config(**case)
    dense, tables, hits, labels = small_batch(2, *sizes)
    pooled = pooled_of(tables, hits)
    found = ExactDiagonal(kind="gauss_newton")(head, dense, pooled, labels, curvature_samples=BATCH)
    named = {name: p.detach() for name, p in head.named_parameters()}
    diagonals = []
    for name, at in named.items():

        def logits(x, name=name):
            return plain_logits({**named, name: x}, cfg, dense, pooled)

        block = gauss_newton(logits, at)
        require_close(hessian(logits, labels, at), block)
        diagonals.append(block.diagonal())
    assert head.parts.weights == "hessian"
    require_close(found.curvature, torch.cat(diagonals))

    def of_pooled(x):
        return plain_logits(named, cfg, dense, x)

    curvature = found.pooled_curvature.flatten()
    expected = gauss_newton(of_pooled, pooled).diagonal()
    require_close(curvature, expected)
    of_hessian = hessian(of_pooled, labels, pooled).diagonal()
    if head.parts.pooled == "hessian":
        require_close(curvature, of_hessian)
    elif pooled.numel():  # and the head does not promise less than it could
        assert (curvature - of_hessian).abs().max() > 1e-3 * of_hessian.abs().max()


@all_cases
def test_a_head_names_the_matrices_that_are_measured(case):
    for changes in (case, {**case, "activation": "gelu"}):
        head = small_head(**changes)
        dense, tables, hits, _ = small_batch()
        assert measured(head, dense, pooled_of(tables, hits)).parts == head.parts


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "dcnv2"])
def test_a_curved_activation_leaves_the_gauss_newton_matrix(name):
    head, cfg = small_head(name=name, activation="gelu"), small_config(name, activation="gelu")
    assert (head.parts.weights, head.parts.pooled) == ("gauss_newton", "gauss_newton")
    dense, tables, hits, labels = small_batch()
    pooled = pooled_of(tables, hits)
    found = ExactDiagonal(kind="gauss_newton")(head, dense, pooled, labels, curvature_samples=BATCH)
    named = {name: p.detach() for name, p in head.named_parameters()}
    diagonals = [
        gauss_newton(lambda x, n=n: plain_logits({**named, n: x}, cfg, dense, pooled), p).diagonal()
        for n, p in named.items()
    ]
    require_close(found.curvature, torch.cat(diagonals))


@pytest.mark.parametrize("name", ["dlrm", "deepfm", "dcnv2"])
def test_a_model_that_reads_nothing_is_refused(name):
    with pytest.raises(ValueError, match="at least one feature, got no numeric and no categorical features"):
        small_head(0, 0, name=name)


@all_cases
def test_initial_weights_depend_on_the_generator_alone_and_have_the_variance_of_the_reference(case):
    heads = [small_head(400, 0, **{**case, **WIDE[str(case["name"])]}) for _ in range(2)]
    for one, other in zip(*(head.parameters() for head in heads), strict=True):
        assert torch.equal(one, other)
    for layer in (
        m for m in heads[0].modules() if isinstance(m, torch.nn.Linear) and m.weight.numel() > 2000
    ):
        outputs, inputs = layer.weight.shape
        # The relative standard error of a standard deviation of n values is 1 / sqrt(2 n); allow five of these.
        expected, draws = (2 / (inputs + outputs)) ** 0.5, layer.weight.numel()
        assert abs(float(layer.weight.detach().std()) / expected - 1) < 5 / (2 * draws) ** 0.5


def taken_by_layers(head: torch.nn.Module, sizes: tuple[int, int]) -> tuple[int, int]:
    """Return the inputs per sample of the linear layers, and the outputs per sample of those in crosses."""
    taken: list[int] = []
    given: list[int] = []

    def count(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        taken.append(inputs[0].shape[1])
        given.extend([output.shape[1]] * (layer in crosses))

    crosses = [layers[-1] for layers in getattr(head, "crosses", [])]
    for module in head.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(count)
    dense, tables, hits, _ = small_batch(2, *sizes)
    head(dense, pooled_of(tables, hits))
    return sum(taken), sum(given)


@all_cases
@all_sizes
def test_planned_activations_are_at_most_four_copies_of_what_layers_and_products_take(sizes, case):
    num_dense, num_features = sizes
    taken, given = taken_by_layers(small_head(*sizes, **case), sizes)
    if case["name"] == "dlrm":
        vectors = num_features + (num_dense > 0)
        # The bottom MLP's output, which is no layer's direct input; the vectors of a sample and all pairwise products.
        more = WIDTH * (num_dense > 0) + vectors * WIDTH + vectors**2
    elif case["name"] == "deepfm":
        # The squared factors; their sum over features, its square, and the sum of squares.
        more = num_features * (WIDTH - 1) + 3 * (WIDTH - 1)
    else:
        # The factor that each cross multiplies with the inputs, and the product; then the inputs.
        more = 2 * given + num_dense + num_features * WIDTH
        if case.get("structure") == "parallel":
            more += 5  # the last hidden layer, whose output is no layer's direct input
    found = dense_memory(
        small_config(**case),
        parameter_bytes=10,
        state_bytes=5,
        num_dense=num_dense,
        num_features=num_features,
    )
    assert found.kept == 35
    assert found.per_sample == 4 * 4 * (taken + more)


def test_defaults_are_those_of_the_sources():
    assert (DLRMConfig().bottom, DLRMConfig().top) == ((512, 256, 64), (512, 256))
    assert DeepFMConfig().deep == (400, 400, 400)
    assert (DCNv2Config().structure, DCNv2Config().crosses) == ("stacked", 3)
