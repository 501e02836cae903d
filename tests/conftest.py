"""Where there is no GPU, Triton kernels are interpreted; Triton wants to know before it is first imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
