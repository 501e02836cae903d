"""Measure the cost of the Hessian diagonal: gradient plus curvature over the gradient alone, on the Kaggle head.

`exact` is the default, whose products use bf16 operands if the CPU supports it. `exact_fp32` always uses float32.

    python -m benchmarks.curvature [--json]

The variants take turns within one run, so that a slow moment of the machine affects all of them. Each is timed on the second
of two calls. A ratio is the median over rounds of the ratio within a round.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.support.printing import print_rows
from dlrm_adahessian.curvature.base import gradient
from dlrm_adahessian.curvature.exact import ExactDiagonal
from dlrm_adahessian.curvature.hutchinson import Hutchinson
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.model.dlrm import Head
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCHES = (128, 2048)
_WARM_UP = 5


def measure(batch: int, rounds: int) -> dict[str, float]:
    """Return the medians for one batch size, in milliseconds."""
    generator = torch.Generator().manual_seed(0)
    head = Head(DLRMConfig(), num_dense=13, num_features=26, generator=generator)
    dense = torch.rand(batch, 13, generator=generator)
    pooled = torch.randn(batch, 26, 16, generator=generator).mul_(0.1)
    labels = torch.rand(batch, generator=generator).lt(0.25).float()
    exact, exact_fp32 = ExactDiagonal("bf16"), ExactDiagonal("fp32")
    hutchinson = Hutchinson(1, 0, torch.device("cpu"))
    variants: dict[str, Callable[[], object]] = {
        "gradient": lambda: gradient(head, dense, pooled, labels),
        "exact": lambda: exact(head, dense, pooled, labels, curvature_samples=batch),
        "exact_fp32": lambda: exact_fp32(head, dense, pooled, labels, curvature_samples=batch),
        "hutchinson": lambda: hutchinson(head, dense, pooled, labels, curvature_samples=batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(_WARM_UP + rounds):
        for name, run in variants.items():
            run()  # so that caches and allocator are not in the state of the previous variant
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    kept = {name: times[_WARM_UP:] for name, times in seconds.items()}
    ratios = {
        name: statistics.median(t / g for t, g in zip(kept[name], kept["gradient"], strict=True))
        for name in variants
    }
    return {
        "batch": batch,
        "gradient_ms": 1e3 * statistics.median(kept["gradient"]),
        "exact_over_gradient": ratios["exact"],
        "exact_fp32_over_gradient": ratios["exact_fp32"],
        "hutchinson_over_gradient": ratios["hutchinson"],
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--rounds", type=int, default=60, help="measured rounds per batch size")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    found = [measure(batch, args.rounds) for batch in _BATCHES]
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
