"""Test CowClip's maximum gradient norm, including repeated ids."""

import pytest
import torch

from dlrm_adahessian.kernels.row_sums import sum_hits
from dlrm_adahessian.optim.rows.cowclip import CowClipConfig

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
def test_a_gradient_may_be_as_long_as_the_row_for_each_lookup_repeated_or_not(update):
    # One bag contains the row of norm 5 three times and another bag contains it once, both with the same gradient.
    rule = CowClipConfig(ratio=2.0, beta1=0.5).build()
    weight = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    lookups, bags = torch.tensor([0, 0, 0, 1, 0]), torch.tensor([0, 0, 0, 1, 1])
    for norm, clipped in ((1000.0, 4 * 2.0 * 5.0), (9.0, 36.0)):
        grad = torch.tensor([[0.0, norm], [0.0, norm]], dtype=torch.float64)
        hits = sum_hits(
            lookups,
            bags,
            grad,
            None,
            table_starts=torch.tensor([0, 5]),
            slots=torch.full((2,), -1, dtype=torch.int32),
        )
        state = rule.new_state(weight)
        getattr(rule, update)(weight.clone(), state, hits, lr_scale=1.0, samples=2)
        # The first step's gradient mean is half of the gradient. For a row at 0, the gradient is clipped to zeta.
        torch.testing.assert_close(state["mean"][0], torch.tensor([0.0, clipped / 2], dtype=torch.float64))
        torch.testing.assert_close(state["mean"][1], torch.tensor([0.0, 1e-5 / 2], dtype=torch.float64))
