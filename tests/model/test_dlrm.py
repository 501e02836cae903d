"""DLRM's dense half: pairs of the interaction, their derivatives, parameters that are views of one vector."""

from itertools import combinations, combinations_with_replacement

import pytest
import torch

from dlrm_adahessian.model.dlrm import DotInteraction, flatten_parameters_
from tests.oracles import plain_logits, pooled_of, small_batch, small_config, small_head


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
def test_logits_are_those_of_dlrm_written_down_again(changes):
    head = small_head(**changes)
    dense, tables, hits, _ = small_batch()
    pooled = pooled_of(tables, hits)
    values = dict(head.named_parameters())
    expected = plain_logits(values, small_config(**changes), dense, pooled)
    torch.testing.assert_close(head(dense, pooled), expected, rtol=1e-12, atol=1e-12)


def test_flattened_parameters_are_views_of_the_vector_in_order():
    head = small_head()
    before = [p.detach().clone() for p in head.parameters()]
    vector = flatten_parameters_(head)
    assert torch.equal(vector, torch.cat([p.flatten() for p in before]))
    vector.fill_(7)
    assert all((p == 7).all() for p in head.parameters())
