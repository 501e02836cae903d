"""The device that a run computes on, and how exactly it multiplies matrices: operands may be rounded, sums never are."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch

from dlrm_adahessian.errors import UsageError

DeviceName = Literal["auto", "cpu", "cuda"]
"""Where to compute; auto is a GPU where there is one."""
Precision = Literal["fp32", "tf32", "bf16"]
"""Bits of an operand's fraction: 23; 10, on GPUs; 7, on CPUs with units for it (a GPU then takes tf32)."""
_TORCH_NAMES = {"fp32": "highest", "tf32": "high", "bf16": "medium"}


def finds_gpu(name: DeviceName) -> bool:
    """Whether a process with this setting computes on a GPU."""
    return name != "cpu" and torch.cuda.is_available()


def find_device(name: DeviceName) -> torch.device:
    """Return the device of this process; under torchrun each local rank takes a GPU of its own.

    Args:
        name: "auto" is "cuda" where there is a GPU, else "cpu".

    Returns:
        The CPU, or a GPU, which is made the current one.

    Raises:
        UsageError: a GPU is asked for, and torch finds none.
    """
    if not finds_gpu(name):
        if name == "cuda":
            raise UsageError(
                "device cuda needs a GPU that torch can use, found none; use --device auto or cpu"
            )
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


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
