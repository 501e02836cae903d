"""DLRM's dense part: interaction pairs, their derivatives, and parameters that are views of one vector."""

from itertools import combinations, combinations_with_replacement

import pytest
import torch

from dlrm_adahessian.model.config import DLRMConfig, dense_memory
from dlrm_adahessian.model.dlrm import DotInteraction, Head, flatten_parameters_
from tests.oracles import PARTS, plain_logits, pooled_of, small_batch, small_config, small_head


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("squares", "pairs_of"), [(False, combinations), (True, combinations_with_replacement)]
)
def test_interaction_has_each_pair_once_and_its_derivatives(squares, pairs_of):
    interaction = DotInteraction(4, self_interaction=squares)
    vectors = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = interaction(vectors)
    expected = [(vectors[:, i] * vectors[:, j]).sum(1) for i, j in pairs_of(range(4), 2)]
    torch.testing.assert_close(found.sort(1)[0], torch.stack(expected, 1).sort(1)[0], rtol=1e-14, atol=1e-14)
    assert found.shape[1] == interaction.pairs == len(expected)
    assert torch.autograd.gradcheck(interaction, vectors.requires_grad_())


@pytest.mark.oracle
@pytest.mark.parametrize("changes", [{}, {"self_interaction": True}, {"activation": "gelu"}])
@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_logits_are_those_of_dlrm_written_down_again(sizes, changes):
    head = small_head(*sizes, **changes)
    dense, tables, hits, _ = small_batch(2, *sizes)
    pooled = pooled_of(tables, hits)
    values = dict(head.named_parameters())
    expected = plain_logits(values, small_config(**changes), dense, pooled)
    torch.testing.assert_close(head(dense, pooled), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (
            (4, 3),
            [(6, 4), (3, 6), (5, 3 + 6), (1, 5)],
        ),  # six pairs of the bottom MLP's output and three embeddings
        ((0, 3), [(5, 9 + 3), (1, 5)]),  # three embeddings of width 3, and their three pairs
        ((0, 1), [(5, 3), (1, 5)]),  # one embedding, no pair
        ((4, 0), [(6, 4), (3, 6), (5, 3), (1, 5)]),  # the bottom MLP's output, no pair
    ],
)
def test_there_are_layers_for_the_columns_that_a_model_has_and_no_others(sizes, expected):
    head = small_head(*sizes)
    assert [p.shape for p in head.parameters() if p.ndim == 2] == expected
    assert [p.shape for p in head.parameters() if p.ndim == 1] == [(rows,) for rows, _ in expected]


def test_a_model_that_reads_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one feature, got no numeric and no categorical features"):
        small_head(0, 0)


@pytest.mark.oracle
@pytest.mark.parametrize("columns", [(13, 26), (0, 26), (13, 0)])
def test_initial_weights_are_drawn_layer_by_layer_as_the_reference_does(columns):
    """The generator is used in the same order, whatever the number of features of the other kind."""
    cfg = DLRMConfig(embedding_dim=4, bottom=(6,), top=(5,))
    num_dense, num_features = columns
    head = Head(
        cfg, num_dense=num_dense, num_features=num_features, generator=torch.Generator().manual_seed(3)
    )
    vectors = num_features + (num_dense > 0)
    read = 4 if num_dense else 4 * num_features
    widths = [(num_dense, 6), (6, 4)] if num_dense else []
    widths += [(read + vectors * (vectors - 1) // 2, 5), (5, 1)]
    generator, drawn = torch.Generator().manual_seed(3), []
    for inputs, outputs in widths:
        drawn.append(
            torch.empty(outputs, inputs).normal_(0, (2 / (inputs + outputs)) ** 0.5, generator=generator)
        )
        drawn.append(torch.empty(outputs).normal_(0, (1 / outputs) ** 0.5, generator=generator))
    found = list(head.parameters())
    assert len(found) == len(drawn)
    assert all(torch.equal(p, values) for p, values in zip(found, drawn, strict=True))


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_planned_activations_are_at_most_four_copies_of_what_each_layer_takes_and_gives(sizes):
    head, (num_dense, num_features) = small_head(*sizes), sizes
    dense, tables, hits, _ = small_batch(2, *sizes)
    taken: list[int] = []
    for module in head.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda _, inputs, output: taken.append(inputs[0].shape[1]))
    head(dense, pooled_of(tables, hits))
    if num_dense:
        taken.append(3)  # the bottom MLP's last layer, whose output does not enter another layer directly
    vectors = num_features + (num_dense > 0)
    found = dense_memory(
        small_config(), parameter_bytes=10, state_bytes=5, num_dense=num_dense, num_features=num_features
    )
    # The vectors of a sample, and all pairwise products.
    assert found.per_sample == 4 * 4 * (sum(taken) + vectors * 3 + vectors**2)
    assert found.kept == 35


def test_flattened_parameters_are_views_of_the_vector_in_order():
    head = small_head()
    before = [p.detach().clone() for p in head.parameters()]
    vector = flatten_parameters_(head)
    assert torch.equal(vector, torch.cat([p.flatten() for p in before]))
    vector.fill_(7)
    assert all((p == 7).all() for p in head.parameters())
