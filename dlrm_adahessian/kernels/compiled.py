# pyright: basic
"""Compile kernels at their first use, so that files with kernels import neither numba nor Triton.

An optimizer's file also contains its settings, which `--help` reads, so it must import fast. The body of a kernel uses the
globals `numba` and `tl`, which its file imports for the type checker only:

    if TYPE_CHECKING:
        import numba
        import triton.language as tl

    @numba_kernel
    def _update(w, rows, g, lr):
        for i in numba.prange(len(rows)):
            ...

    @triton_kernel
    def _direction(states, weight, ...):
        return tl.load(...)

Before compilation, this module adds the real modules to the globals of the kernel's file, where numba and Triton look up
names. For the same reason, it replaces each `triton_kernel` that the body calls with Triton's kernel.

Triton comes with the CUDA builds of torch but not with the CPU builds. `TRITON_INTERPRET=1`, set before the first
kernel is compiled, runs kernels on CPU tensors in Triton's interpreter.
"""

from collections.abc import Callable
from functools import cache, cached_property, wraps
from typing import Any


def numba_kernel(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function with numba at its first call, with parallel loops and numba's cache on disk.

    Args:
        function: the kernel.
        options: further options of `numba.njit`.

    Returns:
        A replacement for the function that takes positional arguments.
    """

    @cache
    def compiled() -> Callable[..., Any]:
        import numba

        function.__globals__["numba"] = numba
        return numba.njit(cache=True, parallel=True, **options)(function)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled()(*arguments)

    return call


class TritonKernel:
    """A Triton kernel, launched as `kernel[grid](...)` or inlined by another kernel."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def compiled(self) -> Any:
        """Return Triton's kernel. Raises a RuntimeError if Triton is not installed."""
        if not triton_available():
            raise RuntimeError(
                f"The kernel {self._function.__qualname__} needs Triton, which is not installed. Run pip install triton."
            )
        import triton
        import triton.language as tl

        known = self._function.__globals__
        known["tl"] = tl
        for name in self._function.__code__.co_names:
            if isinstance(kernel := known.get(name), TritonKernel):
                known[name] = kernel.compiled
        return triton.jit(self._function)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.compiled[grid]


def triton_kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with Triton when it is first launched, directly or from another kernel."""
    return TritonKernel(function)


@cache
def triton_available() -> bool:
    """Return whether GPU kernels can be launched."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
