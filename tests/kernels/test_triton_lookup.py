import pytest
import torch

from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.optim.config import RowAdagradConfig
from dlrm_adahessian.optim.registry import row_rule
from tests.devices import DEVICES, needs_triton

pytestmark = [pytest.mark.oracle, needs_triton]
SIZES, WIDTH = [4, 1, 9], 3
LENGTHS = {
    "one_hot": [1] * 15,
    "bags_of_several_and_empty_ones": [0, 3, 1, 0, 2, 5, 0, 0, 1, 1, 0, 0, 0, 2, 4],
    "no_lookup_at_all": [0] * 6,
    "more_bags_than_a_program_takes": [1] * 75,
    "no_bag": [],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", LENGTHS)
def test_lookup_equals_the_one_on_the_cpu(name: str, device: str):
    from dlrm_adahessian.kernels.triton_lookup import look_up_triton

    lengths = torch.tensor(LENGTHS[name], dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    tables = RowTables(
        SIZES, WIDTH, [0, 1, 2], rule=row_rule(RowAdagradConfig()), device=torch.device("cpu"), dtype=torch.float64
    )  # fmt: skip
    tables.weight.normal_(generator=generator)
    heights = torch.tensor(SIZES).repeat_interleave(len(lengths) // 3).repeat_interleave(lengths)
    indices = (torch.rand(len(heights), generator=generator) * heights).long()
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    expected = tables(indices, offsets).detach().view(-1, WIDTH)
    first_rows = torch.tensor([0, 4, 5])
    on_device = (tensor.to(device) for tensor in (tables.weight, indices, offsets, first_rows))
    rows, bags, pooled = look_up_triton(*on_device)
    torch.testing.assert_close(pooled.cpu(), expected, rtol=1e-14, atol=1e-14)
    again = torch.zeros_like(expected).index_add(0, bags.cpu(), tables.weight[rows.cpu()])
    torch.testing.assert_close(again, expected, rtol=1e-14, atol=1e-14)
