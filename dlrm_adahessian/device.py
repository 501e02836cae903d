"""The device that a run computes on, and how exact its matrix products are."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch

from dlrm_adahessian.errors import UsageError

_PRECISION = {"fp32": "highest", "tf32": "high"}  # torch's names


def find_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Return the device of this process; under torchrun each local rank takes a GPU of its own.

    Args:
        name: "auto" is "cuda" where there is a GPU, else "cpu".

    Returns:
        The CPU, or a GPU, which is made the current one.

    Raises:
        UsageError: a GPU is asked for, and torch finds none.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError("device cuda needs a GPU that torch can use, found none; use --device auto or cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


@contextmanager
def matrix_products(precision: Literal["fp32", "tf32"]) -> Generator[None]:
    """Let float32 matrix products round their operands to tf32 (10 bits), or not, while the block runs."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(_PRECISION[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
