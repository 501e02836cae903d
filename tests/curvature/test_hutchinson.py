import pytest
import torch

from dlrm_adahessian.curvature.base import flat
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from tests.curvature.draws import draws_of, within_five_standard_errors
from tests.oracles import BATCH, PARTS, brute_force_diagonals, small_batch, small_config, small_head

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("changes", [{}, {"activation": "gelu"}, {"self_interaction": True}])
def test_mean_of_hutchinson_draws_is_within_five_standard_errors_of_the_hessian(changes):
    head = small_head(**changes)
    dense, tables, hits, labels = small_batch()
    *expected, expected_tables = brute_force_diagonals(
        head, small_config(**changes), dense, tables, hits, labels
    )
    draws = draws_of(Hutchinson, head, BATCH)
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))


@pytest.mark.parametrize("sizes", list(PARTS.values())[1:], ids=list(PARTS)[1:])
def test_models_with_one_kind_of_column_have_their_hessian_too(sizes):
    head = small_head(*sizes, activation="gelu")
    batch = small_batch(2, *sizes)
    *expected, expected_tables = brute_force_diagonals(head, small_config(activation="gelu"), *batch)
    draws = draws_of(Hutchinson, head, BATCH, sizes=sizes)
    assert within_five_standard_errors(draws, torch.cat([flat(expected), expected_tables.reshape(-1)]))
