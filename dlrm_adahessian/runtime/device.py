"""Select the device of a run and the precision of its matrix products. Inputs may be rounded, but sums never are."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch

from dlrm_adahessian.errors import UsageError

DeviceName = Literal["auto", "cpu", "cuda"]
"""Device; auto uses a GPU if there is one."""
Precision = Literal["fp32", "tf32", "bf16"]
"""Mantissa bits of matrix product inputs: 23; 10 on GPUs; 7 on CPUs that support it (on a GPU, bf16 means tf32)."""
_TORCH_NAMES = {"fp32": "highest", "tf32": "high", "bf16": "medium"}


def finds_gpu(name: DeviceName) -> bool:
    """Return whether a process with this setting uses a GPU."""
    return name != "cpu" and torch.cuda.is_available()


def find_device(name: DeviceName) -> torch.device:
    """Return the device of this process. Under torchrun, each local rank uses its own GPU.

    Args:
        name: "auto" means "cuda" if there is a GPU, else "cpu".

    Returns:
        The CPU, or a GPU, which becomes the current device.

    Raises:
        UsageError: `name` is "cuda", but torch finds no GPU.
    """
    if not finds_gpu(name):
        if name == "cuda":
            raise UsageError(
                "No GPU found that torch can use for --device cuda. Use --device auto or --device cpu."
            )
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


@contextmanager
def matrix_products(precision: Precision) -> Generator[None]:
    """Round the inputs of float32 matrix products within the block, if the hardware supports the precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_TORCH_NAMES[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def cpu_gains_from_bf16() -> bool:
    """Return whether the CPU has AMX. With AVX-512 alone, bfloat16 products take as long as float32 ones."""
    # Newer torch releases have the public `torch.cpu.get_capabilities`, but GPU machines may have an older release.
    return torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]
