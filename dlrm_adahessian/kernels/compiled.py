# pyright: basic
"""Kernels that are compiled when they are first used: a file with kernels imports neither numba nor Triton.

The file of an optimizer holds its settings too, which `--help` reads, and so it must import fast. The body of a kernel uses
the globals `numba` and `tl`. Its file imports them for the type checker alone:

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

Before a kernel is compiled, the real modules are put among the globals of its file, where numba and Triton look names up.
For the same reason Triton's kernel takes the place of each `triton_kernel` that the body calls.

Triton comes with the CUDA builds of torch and not with the CPU builds. `TRITON_INTERPRET=1`, set before the first
kernel is compiled, runs kernels on CPU tensors in its interpreter.
"""

from collections.abc import Callable
from functools import cache, cached_property, wraps
from typing import Any


def numba_kernel(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a function with numba at its first call, for all threads, with numba's cache on disk.

    Args:
        function: the kernel.
        options: more of `numba.njit`'s.

    Returns:
        What is called in its place, with positional arguments.
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
    """Launched as `kernel[grid](...)`, or inlined by another kernel."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def compiled(self) -> Any:
        """Triton's kernel; a RuntimeError where Triton is not installed."""
        if not triton_available():
            raise RuntimeError(
                f"the kernel {self._function.__qualname__} needs Triton, which is not installed; pip install triton"
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
    """Compile a function with Triton when it is first launched, alone or inlined by another kernel."""
    return TritonKernel(function)


@cache
def triton_available() -> bool:
    """Whether kernels for the GPU can be launched."""
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
