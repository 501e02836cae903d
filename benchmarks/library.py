"""Cost of `exact_curvature`: forward and backward within the block over the same without, on MLPs of the Kaggle sizes.

    python -m benchmarks.library [--json]

`bottom` is 13-512-256-64-16, `top` 512-256-1 on as many inputs as the interaction has, at batch 2,048. The variants take
turns within one run, each timed on the second of two calls; a ratio is the median over the rounds of the ratio within
a round. `none` repeats the plain pass, and says what the machine's noise is.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.support.printing import print_rows
from dlrm_adahessian import exact_curvature
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCH = 2048
_SIZES = {"bottom": (13, 512, 256, 64, 16, 1), "top": (367, 512, 256, 1)}
_WARM_UP = 3


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Return linear layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def measure(name: str, rounds: int) -> dict[str, float | str]:
    """Return the medians of one MLP; times in milliseconds."""
    torch.manual_seed(0)
    model = mlp(_SIZES[name])
    x, y = torch.rand(_BATCH, _SIZES[name][0]), torch.rand(_BATCH).lt(0.25).float()

    def one(block: AbstractContextManager[object]) -> None:
        model.zero_grad()
        with block:
            F.binary_cross_entropy_with_logits(model(x).squeeze(1), y).backward()

    curvature = exact_curvature(model)
    variants: dict[str, Callable[[], None]] = {
        "plain": lambda: one(nullcontext()),
        "none": lambda: one(nullcontext()),
        "exact": lambda: one(curvature),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(_WARM_UP + rounds):
        for variant, run in variants.items():
            run()  # what the variant before left in caches and allocator is not this one's cost
            began = time.perf_counter()
            run()
            seconds[variant].append(time.perf_counter() - began)
    kept = {variant: times[_WARM_UP:] for variant, times in seconds.items()}
    ratio = {
        variant: statistics.median(t / plain for t, plain in zip(kept[variant], kept["plain"], strict=True))
        for variant in variants
    }
    return {
        "mlp": name,
        "plain_ms": 1e3 * statistics.median(kept["plain"]),
        "none_over_plain": ratio["none"],
        "exact_over_plain": ratio["exact"],
    }


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--rounds", type=int, default=30, help="measured rounds per MLP")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the program does
    print_rows([measure(name, args.rounds) for name in _SIZES], as_json=args.json)


if __name__ == "__main__":
    main()
