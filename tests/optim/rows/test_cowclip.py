"""CowClip: what a row's gradient is cut to, with repeated ids."""

import pytest
import torch

from dlrm_adahessian.kernels.row_sums import sum_hits
from dlrm_adahessian.optim.rows.cowclip import CowClipConfig

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("update", ["update_torch_", "update_numba_"])
def test_a_gradient_may_be_as_long_as_the_row_for_each_lookup_repeated_or_not(update):
    # One bag holds the row of norm 5 three times, another once, and their gradients are alike: the sum is four of them.
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
        # Of a first step the mean of gradients is half of the gradient; that of a row at 0 is cut to zeta.
        torch.testing.assert_close(state["mean"][0], torch.tensor([0.0, clipped / 2], dtype=torch.float64))
        torch.testing.assert_close(state["mean"][1], torch.tensor([0.0, 1e-5 / 2], dtype=torch.float64))
