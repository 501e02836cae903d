"""Compare derivatives on a GPU with float64 on the CPU and with a replayed CUDA graph. Interpret the kernel too."""

from itertools import product

import pytest
import torch

from dlrm_adahessian.curvature.base import Derivatives
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.curvature.gpu import Graphed, weigh_and_square_triton
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head
from tests.devices import DEVICES, needs_gpu, needs_triton

pytestmark = pytest.mark.oracle
NAMES = ("loss", "logits", "grad", "pooled_grad", "curvature", "pooled_curvature")
# Relative to the norm. A rounding error u flips about a share u of the ReLUs, and with them the same share of the squared
# norm of the derivatives. This gives sqrt(u), where u is 2**-11 for tf32.
LIMITS = {
    ("highest", torch.float64, "fp32"): 1e-12,
    ("highest", torch.float32, "fp32"): 1e-3,
    ("highest", torch.float32, "bf16"): 8e-3,  # rounding of the squares, at most 2**-7
    ("high", torch.float32, "bf16"): 6e-2,
}


def on_a_gpu(test):
    for mark in needs_gpu:
        test = mark(test)
    return test


BOTH = (13, 26)
COLUMNS = [BOTH, (0, 26), (13, 0)]
"""Numbers of numeric features (K) and categorical features (F)."""


def head(dtype=torch.float64, columns=BOTH):
    generator = torch.Generator().manual_seed(0)
    num_dense, num_features = columns
    return Head(
        DLRMConfig(), num_dense=num_dense, num_features=num_features, generator=generator, dtype=dtype
    )


def batch(samples: int, seed: int = 0, columns=BOTH):
    generator = torch.Generator().manual_seed(seed)
    num_dense, num_features = columns
    dense = torch.rand(samples, num_dense, generator=generator, dtype=torch.float64)
    pooled = torch.randn(samples, num_features, 16, generator=generator, dtype=torch.float64)
    return dense, pooled, torch.rand(samples, generator=generator, dtype=torch.float64).lt(0.25).double()


def distance(found: Derivatives, expected: Derivatives) -> float:
    def relative(name: str) -> float:
        got, want = getattr(found, name), getattr(expected, name)
        assert got.shape == want.shape
        if want.numel() == 0:
            return 0.0
        return float((got.double().cpu() - want.double().cpu()).norm() / want.double().norm())

    return max(relative(name) for name in NAMES if getattr(expected, name) is not None)


@pytest.fixture(params=LIMITS, ids=lambda key: "-".join(map(str, key)))
def precision(request):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param[0])
    yield request.param
    torch.set_float32_matmul_precision(before)


@on_a_gpu
@pytest.mark.parametrize("part", [300, 100])
@pytest.mark.parametrize("columns", COLUMNS)
def test_exact_diagonal_equals_float64_on_the_cpu(columns, part: int, precision):
    model, inputs = head(columns=columns), batch(300, columns=columns)
    expected = ExactDiagonal()(model, *inputs, curvature_samples=part)
    dtype = precision[1]
    on_gpu = [tensor.to("cuda", dtype) for tensor in inputs]
    found = ExactDiagonal(precision[2])(model.to("cuda", dtype), *on_gpu, curvature_samples=part)
    assert distance(found, expected) < LIMITS[precision]


@on_a_gpu
@pytest.mark.parametrize("columns", COLUMNS)
def test_a_replayed_graph_equals_the_call_bit_for_bit(columns):
    plain, graphed, model = ExactDiagonal(), Graphed(ExactDiagonal()), head(torch.float32, columns).cuda()
    for call in range(6):
        for size, weighted in product((64, 96), (False, True)):
            samples = size if call % 2 else 0
            inputs = [tensor.float().cuda() for tensor in batch(size, seed=call, columns=columns)]
            weights = torch.arange(size, device="cuda") % 3 * float(call) if weighted else None
            found = graphed(model, *inputs, curvature_samples=samples, weights=weights)
            expected = plain(model, *inputs, curvature_samples=samples, weights=weights)
            for name in NAMES:
                got, want = getattr(found, name), getattr(expected, name)
                assert (got is None) == (want is None)
                assert want is None or torch.equal(got, want), name
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)  # in place, like the optimizers


@needs_triton
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [700, 0])
def test_operands_are_weighted_and_squared(width: int, device: str):
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 600), (5, width), (5,))
    narrow, wide, weight = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    on_device = (tensor.to(device) for tensor in (wide, weight))
    part_of_more = torch.cat([narrow, narrow], 1).to(device)[:, 600:]  # strided, like the pooled embeddings
    found = weigh_and_square_triton(part_of_more, *on_device, dtype=torch.float64)
    expected = (weight.unsqueeze(1) * narrow.square(), wide.square())
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got.cpu(), want, rtol=1e-15, atol=0)
