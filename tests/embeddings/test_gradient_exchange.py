"""Select the columns of the derivatives for each group of tables. The sharded lookup tests that they arrive."""

import pytest
import torch

from dlrm_adahessian.embeddings.gradient_exchange import TableGroup


@pytest.mark.parametrize(("dim", "columns", "firsts"), [(4, 4, [0, 0]), (8, 2, [0, 6])])
def test_a_group_reads_the_columns_of_its_features_and_of_its_shards(dim, columns, firsts):
    group = TableGroup(features=[0, 2], first_columns=firsts, columns=columns, is_replicated=False)
    derivatives = torch.arange(5 * 3 * dim).view(5, 3, dim)
    found = derivatives.flatten(1)[:, group.places(dim)]
    expected = [derivatives[:, f, first : first + columns] for f, first in zip([0, 2], firsts, strict=True)]
    assert torch.equal(found, torch.cat(expected, 1))


def test_of_a_mean_over_the_columns_a_group_reads_the_number_of_each_feature():
    group = TableGroup(features=[0, 2], first_columns=[0, 4], columns=2, is_replicated=False)
    assert group.places(1) == [0, 2]
