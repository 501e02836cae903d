"""Dropout in all architectures: masks are constant in a step, affect its derivatives, and do not affect predictions."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Place, flat
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.model.config import dense_memory
from dlrm_adahessian.model.dropout import Dropout, Masks
from dlrm_adahessian.serving.export import head_program
from tests.oracles import (
    BATCH,
    DENSE,
    FEATURES,
    WIDTH,
    gauss_newton,
    hessian,
    plain_logits,
    pooled_of,
    small_batch,
    small_config,
    small_head,
)

RATE = 0.4
NAMES = ["dlrm", "deepfm", "dcnv2"]
DROPPED = {"dlrm": ["bottom.0", "top.0"], "deepfm": ["deep.0", "deep.2"], "dcnv2": ["deep.0", "deep.2"]}
"""The hidden layers, except the bottom MLP's last, whose output is treated like an embedding."""
CPU = torch.device("cpu")
every_model = pytest.mark.parametrize("name", NAMES)


class Masked:
    """A head with masks, a batch, and the reference formula with the same masks."""

    def __init__(self, name: str) -> None:
        self.head, self.cfg = small_head(name=name, dropout=RATE), small_config(name, dropout=RATE)
        self.dense, tables, hits, self.labels = small_batch()
        self.pooled = pooled_of(tables, hits)
        self.masks = Masks(self.head, samples=BATCH, seed=3)
        self.drawn = partial(self.masks.drawn, BATCH, slice(BATCH))
        self.named = {key: p.detach() for key, p in self.head.named_parameters()}

    def factors(self) -> dict[str, Tensor]:
        """Return the current masks, keyed by the layer before them."""
        found = {}
        for path, module in self.head.named_modules():
            if isinstance(module, Dropout) and module.factors is not None:
                part, place, _ = path.split(".")
                found[f"{part}.{int(place) - 1}"] = module.factors.clone()
        return found

    def plain(self, values: dict[str, Tensor], pooled: Tensor, factors: dict[str, Tensor]) -> Tensor:
        first = {key: factor[: len(pooled)] for key, factor in factors.items()}
        return plain_logits(values, self.cfg, self.dense[: len(pooled)], pooled, first)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.oracle
@every_model
def test_the_diagonal_is_that_of_the_network_which_the_masks_leave(name):
    """Compare with brute force: the Hessian at the weights, and at the embeddings the matrix that the head declares."""
    case = Masked(name)
    with case.drawn():
        factors = case.factors()
        found = ExactDiagonal(kind="gauss_newton")(
            case.head, case.dense, case.pooled, case.labels, curvature_samples=BATCH
        )
    assert sorted(factors) == DROPPED[name]
    assert all(set(factor.unique().tolist()) == {0.0, 1 / (1 - RATE)} for factor in factors.values())
    diagonals = []
    for key, at in case.named.items():

        def logits(x: Tensor, key: str = key) -> Tensor:
            return case.plain({**case.named, key: x}, case.pooled, factors)

        diagonals.append(hessian(logits, case.labels, at).diagonal())
    close(found.curvature, torch.cat(diagonals))

    def of_pooled(x: Tensor) -> Tensor:
        return case.plain(case.named, x, factors)

    matrix = hessian(of_pooled, case.labels, case.pooled)
    if name == "dcnv2":
        matrix = gauss_newton(of_pooled, case.pooled)
    close(found.pooled_curvature.flatten(), matrix.diagonal())
    close(found.logits, of_pooled(case.pooled))


@pytest.mark.oracle
@every_model
@pytest.mark.parametrize("samples", [BATCH, BATCH // 2])
def test_both_passes_of_hutchinson_and_the_gradient_beside_them_have_one_mask(name, samples):
    case, seed = Masked(name), 4
    variables = [*case.named.values(), case.pooled[:samples]]
    signs = Hutchinson(1, seed, CPU)._probe(variables, Place(first=0, samples=samples))
    with case.drawn():
        factors = case.factors()
        found = Hutchinson(1, seed, CPU)(
            case.head, case.dense, case.pooled, case.labels, curvature_samples=samples
        )
    leaves = [v.clone().requires_grad_() for v in variables]

    def loss(pooled: Tensor) -> Tensor:
        logits = case.plain(dict(zip(case.named, leaves, strict=False)), pooled, factors)
        return F.binary_cross_entropy_with_logits(logits, case.labels[: len(pooled)])

    grads = torch.autograd.grad(loss(leaves[-1]), leaves, create_graph=True)
    products = torch.autograd.grad(grads, leaves, signs)
    close(found.curvature, flat([s * p for s, p in zip(signs, products, strict=True)][:-1]))
    close(found.pooled_curvature[:samples], signs[-1] * products[-1] * samples / BATCH)
    close(found.grad, flat(torch.autograd.grad(loss(case.pooled), leaves[:-1])))


@pytest.mark.oracle
@every_model
def test_labels_of_bartlett_are_drawn_and_differentiated_with_one_mask(name):
    case, seed, samples = Masked(name), 4, BATCH // 2
    with case.drawn():
        factors = case.factors()
        found = GaussNewtonBartlett(1, seed, CPU)(
            case.head, case.dense, case.pooled, case.labels, curvature_samples=samples
        )
    leaves = {key: value.clone().requires_grad_() for key, value in case.named.items()}
    logits = case.plain(leaves, case.pooled[:samples], factors)
    labels = torch.bernoulli(logits.detach().sigmoid(), generator=torch.Generator().manual_seed(seed))
    loss = F.binary_cross_entropy_with_logits(logits, labels)
    expected = flat(torch.autograd.grad(loss, list(leaves.values())))
    close(found.squares_of[0], expected)
    close(found.curvature, samples * expected.square())


@pytest.mark.oracle
def test_the_mean_of_many_masked_outputs_of_a_linear_layer_is_the_unmasked_one():
    torch.manual_seed(0)
    layers, inputs, draws = (
        nn.Sequential(Dropout(RATE, 6), nn.Linear(6, 3)).double(),
        torch.randn(4, 6).double(),
        2000,
    )
    masks, found = Masks(layers, samples=4, seed=1), []
    for _ in range(draws):
        with masks.drawn(4, slice(4)), torch.no_grad():
            found.append(layers(inputs))
    of_draws = torch.stack(found)
    error = (of_draws.mean(0) - layers(inputs)).abs()
    assert (error <= 5 * of_draws.std(0) / draws**0.5).all()


def test_ranks_have_their_parts_of_the_masks_that_one_process_draws():
    heads = [small_head(dropout=RATE) for _ in range(3)]
    whole, *parts = (Masks(head, samples=size, seed=3) for head, size in zip(heads, (7, 4, 4), strict=True))
    for samples, cut in ((7, 4), (5, 4), (3, 3)):  # one rank of the last batch has no samples
        with (
            whole.drawn(samples, slice(samples)),
            parts[0].drawn(samples, slice(cut)),
            parts[1].drawn(samples, slice(cut, samples)),
        ):
            for all_of, first, second in zip(*(dropouts(head) for head in heads), strict=True):
                together = torch.cat([first.factors[:cut], second.factors[: samples - cut]])
                assert torch.equal(together, all_of.factors[:samples])


def dropouts(head: nn.Module) -> list[Dropout]:
    return [module for module in head.modules() if isinstance(module, Dropout)]


def test_masks_go_on_from_their_state_and_those_of_two_steps_differ():
    first, second = (Masked("dlrm") for _ in range(2))
    with first.drawn():
        of_first = first.factors()
    second.masks.state["generator"].copy_(first.masks.state["generator"])
    second.masks.load_state()
    with first.drawn(), second.drawn():
        expected, found = first.factors(), second.factors()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert not all(torch.equal(of_first[key], expected[key]) for key in expected)


def test_masks_stay_where_they_are_for_graphs_that_read_them_again():
    case, places = Masked("dlrm"), []
    for samples in (BATCH, 3, BATCH):
        with case.masks.drawn(samples, slice(samples)):
            places.append([module.factors.data_ptr() for module in dropouts(case.head)])
    assert places[0] == places[1] == places[2]


@every_model
def test_outside_a_step_and_exported_a_head_is_the_one_without_dropout(name):
    case, plain = Masked(name), small_head(name=name)
    assert list(case.head.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(case.head.parameters(), plain.parameters(), strict=True))
    assert not Masks(plain, samples=BATCH, seed=3)
    with pytest.raises(ZeroDivisionError), case.drawn():
        1 / 0  # noqa: B018 -- a step that fails
    assert torch.equal(case.head(case.dense, case.pooled), plain(case.dense, case.pooled))
    head_program(case.head.float(), num_dense=DENSE, features=FEATURES, dim=WIDTH)


@every_model
def test_planned_activations_of_hidden_layers_count_twice(name):
    sizes = {"parameter_bytes": 0, "state_bytes": 0, "num_dense": DENSE, "num_features": FEATURES}
    planned = [dense_memory(small_config(name, dropout=p), **sizes).per_sample for p in (0.0, RATE)]
    assert planned[1] - planned[0] == 4 * 4 * 11  # hidden layers of 6 and 5 units
