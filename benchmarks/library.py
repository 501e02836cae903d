"""Measure the cost of `exact_curvature`: forward and backward in its block over the same without it, on the Kaggle MLPs.

    python -m benchmarks.library [--json]

The model has a bottom MLP 13-512-256-64-16, the dot interaction with 26 embeddings that require gradients, and a top MLP
512-256-1. The variants take turns within one run, and each is timed on the second of two calls. A ratio is the median over
rounds of the ratio within a round. It uses the CPU time of the single thread, which is less sensitive to other processes
than elapsed time. `again` repeats the plain pass, to show the noise.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F

from benchmarks.support.printing import print_rows
from dlrm_adahessian import exact_curvature
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCHES = (128, 2048)
_WARM_UP = 3


def measure(batch: int, rounds: int) -> dict[str, float]:
    """Return the medians for one batch size, in milliseconds."""
    generator = torch.Generator().manual_seed(0)
    model = Head(DLRMConfig(), num_dense=13, num_features=26, generator=generator)
    dense = torch.rand(batch, 13, generator=generator)
    pooled = torch.randn(batch, 26, 16, generator=generator).mul_(0.1).requires_grad_()
    labels = torch.rand(batch, generator=generator).lt(0.25).float()

    def one(block: AbstractContextManager[object]) -> None:
        model.zero_grad()
        pooled.grad = None
        with block:
            F.binary_cross_entropy_with_logits(model(dense, pooled), labels).backward()

    curvature = exact_curvature(model)
    variants: dict[str, Callable[[], None]] = {
        "plain": lambda: one(nullcontext()),
        "again": lambda: one(nullcontext()),
        "exact": lambda: one(curvature),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(_WARM_UP + rounds):
        for variant, run in variants.items():
            run()  # so that caches and allocator are not in the state of the previous variant
            began = time.thread_time()
            run()
            seconds[variant].append(time.thread_time() - began)
    kept = {variant: times[_WARM_UP:] for variant, times in seconds.items()}
    ratio = {
        variant: statistics.median(t / plain for t, plain in zip(kept[variant], kept["plain"], strict=True))
        for variant in variants
    }
    return {
        "batch": batch,
        "plain_ms": 1e3 * statistics.median(kept["plain"]),
        "again_over_plain": ratio["again"],
        "exact_over_plain": ratio["exact"],
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--rounds", type=int, default=30, help="measured rounds per batch size")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as in training
    print_rows([measure(batch, args.rounds) for batch in _BATCHES], as_json=args.json)


if __name__ == "__main__":
    main()
