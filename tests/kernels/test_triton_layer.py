import pytest
import torch

from tests.devices import DEVICES, needs_triton

pytestmark = [pytest.mark.oracle, needs_triton]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [700, 0])
def test_operands_are_weighted_and_squared(width: int, device: str):
    from dlrm_adahessian.kernels.triton_layer import weigh_and_square_triton

    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 600), (5, width), (5,))
    narrow, wide, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    on_device = (tensor.to(device) for tensor in (wide, weight))
    part_of_more = torch.cat([narrow, narrow], 1).to(device)[:, 600:]  # as the pooled embeddings are
    found = weigh_and_square_triton(part_of_more, *on_device, dtype=torch.float64)
    expected = (weight.unsqueeze(1) * narrow.square(), wide.square())
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-15, atol=0)
