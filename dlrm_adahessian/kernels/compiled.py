# pyright: basic
"""Triton's `jit` and language where Triton is installed; elsewhere stand-ins, so that modules with kernels import.

Triton comes with the CUDA builds of torch and not with the CPU builds. `TRITON_INTERPRET=1`, set before the first
import, runs kernels on CPU tensors in its interpreter.
"""

from collections.abc import Callable
from typing import Any

triton: Any
tl: Any
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = tl = None

available = triton is not None
"""Whether kernels can be launched."""


def jit(function: Callable[..., Any]) -> Any:
    """Return the kernel; without Triton the function itself, which nothing launches."""
    return function if triton is None else triton.jit(function)


@jit
def bias_correction(count, beta):  # noqa: ANN001, ANN201 -- a kernel's function, inlined by row rules
    """Return 1 - beta**count in float64, (N, 1) as `count`: in float32 few digits of it would be right."""
    return 1 - tl.exp(count.to(tl.float64) * tl.log(tl.full((1, 1), beta, tl.float64)))
