"""The device that a run computes on."""

import os
from typing import Literal

import torch

from dlrm_adahessian.errors import UsageError


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
