# pyright: basic
# pyright: reportArgumentType=false, reportOperatorIssue=false
# ruff: noqa: ANN001, ANN202, N803
# Kernel arguments have Triton types, which Triton's own annotations do not describe.
"""GPU version of the exact diagonal's sums over the batch, and CUDA graphs of estimators.

With tensor cores, the step is memory-bound. Separate operations would read and write each activation several times, for
its square and its weighted copy. One kernel therefore computes the operands of a layer's sums in one pass. Rounding squares
to bfloat16 halves the memory that the product reads. Sums are always float32.

At usual batch sizes, a GPU finishes the small kernels of a DLRM head faster than Python can launch them. A graph replaces
some hundred launches with one. It is captured when a batch shape appears for the second time. The first call runs as usual
and warms up the libraries for the capture. Only deterministic estimators can be graphed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Derivatives, Estimator, Request, sums_of
from dlrm_adahessian.kernels.compiled import triton_available, triton_kernel
from dlrm_adahessian.runtime.device import matrix_products

if TYPE_CHECKING:
    import triton.language as tl

_ENTRIES = 2048  # entries per program of the kernel
_Key = tuple[torch.Size, int, int]


def fuses(tensor: Tensor) -> bool:
    """Return whether the fused kernel runs on the device of `tensor`."""
    return tensor.is_cuda and triton_available()


def multiplies_bf16(tensor: Tensor) -> bool:
    """Return whether the GPU of `tensor` multiplies bfloat16 in hardware."""
    return torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def layer_curvature_(
    layer: nn.Linear,
    inputs: Tensor,
    delta: Tensor,
    weight: Tensor,
    out: dict[Tensor, Tensor],
    *,
    rounded: bool,
) -> None:
    """Write sum_c weight_c * outer(delta_c^2, inputs_c^2) for a layer's weight, and sum_c weight_c * delta_c^2 for its bias.

    Args:
        layer: layer whose weight and bias are the keys of `out`.
        inputs: (C, in).
        delta: (C, out).
        weight: (C,).
        out: tensors that receive the sums.
        rounded: whether to store the squares in bfloat16.
    """
    dtype = torch.bfloat16 if rounded else delta.dtype
    delta_is_narrow = delta.shape[1] < inputs.shape[1]
    narrow, wide = (delta, inputs) if delta_is_narrow else (inputs, delta)
    weighted, plain = weigh_and_square_triton(narrow, wide.contiguous(), weight, dtype=dtype)
    delta_square, input_square = (weighted, plain) if delta_is_narrow else (plain, weighted)
    out[layer.weight].copy_(_product(delta_square.T, input_square))
    if layer.bias is not None:  # pyright: ignore[reportUnnecessaryComparison], torch types it so
        # A product on tensor cores is several times faster than `sum` of bfloat16.
        column = torch.ones_like(weight, dtype=dtype) if delta_is_narrow else weight.to(dtype)
        out[layer.bias].copy_(_product(delta_square.T, column.unsqueeze(1)).squeeze(1))


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.dtype == torch.bfloat16:
        # cuBLAS accumulates in float32. Without `out_dtype` it would round the sums to bfloat16.
        return torch.mm(a, b, out_dtype=torch.float32)
    with matrix_products("fp32"):  # the gradient's products may use tf32
        return a @ b


def weigh_and_square_triton(
    narrow: Tensor, wide: Tensor, weight: Tensor, *, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return `weight * narrow**2` and `wide**2`.

    Args:
        narrow: (C, n) floating, with contiguous entries per sample.
        wide: (C, m) contiguous; m may be 0.
        weight: (C,).
        dtype: dtype of the squares.

    Returns:
        (C, n), (C, m).
    """
    narrow_square = narrow.new_empty(narrow.shape, dtype=dtype)
    wide_square = wide.new_empty(wide.shape, dtype=dtype)
    programs = -(-max(narrow.numel(), wide.numel()) // _ENTRIES)
    _weigh_and_square[(programs,)](
        narrow, wide, weight, narrow_square, wide_square, narrow.numel(), wide.numel(),
        narrow.stride(0), NARROW=narrow.shape[1], ENTRIES=_ENTRIES,
    )  # fmt: skip
    return narrow_square, wide_square


@triton_kernel
def _weigh_and_square(
    narrow, wide, weight, narrow_square, wide_square, num_narrow, num_wide,
    stride, NARROW: tl.constexpr, ENTRIES: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * ENTRIES
    entry = first + tl.arange(0, ENTRIES)
    if first < num_narrow:
        sample = entry // NARROW
        value = tl.load(narrow + sample * stride + entry % NARROW, mask=entry < num_narrow, other=0)
        w = tl.load(weight + sample, mask=entry < num_narrow, other=0)
        square = (w * (value * value)).to(narrow_square.dtype.element_ty)
        tl.store(narrow_square + entry, square, mask=entry < num_narrow)
    value = tl.load(wide + entry, mask=entry < num_wide, other=0)
    square = (value * value).to(wide_square.dtype.element_ty)
    tl.store(wide_square + entry, square, mask=entry < num_wide)


class _Graph:
    """One captured call with fixed input and output tensors."""

    def __init__(
        self,
        estimator: Estimator,
        head: nn.Module,
        inputs: Sequence[Tensor],
        samples: int,
        pool: Any,
    ) -> None:
        self._inputs = [tensor.detach().clone() for tensor in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # initializes libraries before the capture
            _called(estimator, head, self._inputs, samples)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Capture only this thread. Meanwhile the loader allocates pinned memory, which would break the capture.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            found = _called(estimator, head, self._inputs, samples)
            self._found = replace(found, sums=sums_of(found))

    def __call__(self, *inputs: Tensor) -> Derivatives:
        for fixed, tensor in zip(self._inputs, inputs, strict=True):
            fixed.copy_(tensor)
        self._graph.replay()
        return self._found


class Graphed(Estimator):
    """Estimator that replays another one as a CUDA graph. Derivatives are valid until the next call."""

    def __init__(self, estimator: Estimator) -> None:
        """Wrap an estimator.

        Args:
            estimator: deterministic estimator, always called with the same head.
        """
        super().__init__()
        self._estimator = estimator
        self.state = estimator.state
        # All graphs share one memory pool, because they run one after another and only their outputs outlive a run.
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: set[_Key] = set()
        self._graphs: dict[_Key, _Graph] = {}

    def load_state(self) -> None:
        """Use the generator state that was copied to `state`."""
        self._estimator.load_state()

    def derivatives(self, request: Request) -> Derivatives:
        """Return the derivatives; see `Estimator`."""
        head, samples = request.head, request.curvature_samples
        weights = [] if request.weights is None else [request.weights]
        inputs = [request.dense, request.pooled.detach(), request.labels, *weights]
        key = (request.pooled.shape, samples, len(inputs))
        if key not in self._seen:
            self._seen.add(key)
            return _called(self._estimator, head, inputs, samples)
        if key not in self._graphs:
            self._graphs[key] = _Graph(self._estimator, head, inputs, samples, self._pool)
        return self._graphs[key](*inputs)


def _called(estimator: Estimator, head: nn.Module, inputs: Sequence[Tensor], samples: int) -> Derivatives:
    dense, pooled, labels, *weights = inputs
    return estimator(
        head, dense, pooled, labels, curvature_samples=samples, weights=weights[0] if weights else None
    )
