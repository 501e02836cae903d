"""How exact float32 matrix products are: their operands may be rounded, their sums never are."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]
"""Bits of an operand's fraction: 23; 10, on GPUs; 7, on CPUs with units for it (a GPU then takes tf32)."""
_TORCH_NAMES = {"fp32": "highest", "tf32": "high", "bf16": "medium"}


@contextmanager
def matrix_products(precision: Precision) -> Generator[None]:
    """Round the operands of float32 matrix products while the block runs; without units for it nothing is rounded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_TORCH_NAMES[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cpu_gains_from_bf16() -> bool:
    """Whether the CPU has AMX: products of bfloat16 on AVX-512 units take as long as those of float32."""
    # Newer releases of torch have a public name, `torch.cpu.get_capabilities`; GPU machines may have an older one.
    return torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
