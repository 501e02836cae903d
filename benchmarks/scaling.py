"""Measure step times, and the cost of hybrid over Adagrad, against batch size, table size, and embedding width.

    python -m benchmarks.scaling [--seconds S] [--json]

One of the three varies, and the others stay at a batch of 2048, a million embedding rows, and a width of 16. Both optimizers
take turns on the same random batches, which are generated between timings. A turn is one untimed step, followed by as many
timed steps as a cycle of hybrid's dense curvature, so that each turn includes one curvature. A step includes lookup,
derivatives, and both updates. Times are medians over turns, and the ratio is the median of the ratio within a round.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from benchmarks.support.kaggle import batches, table_sizes
from benchmarks.support.printing import print_rows
from benchmarks.support.training import Steps, run_config
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCH, _SCALE, _DIM = 2048, 0.03, 16  # the scale gives 1.0 million embedding rows
_AXES = {
    "batch": [2**power for power in range(7, 17)],
    "table_rows": [
        0.0003,
        0.001,
        0.003,
        0.01,
        0.03,
        0.1,
        0.3,
        1.0,
    ],  # factors for the published cardinalities
    "dim": [8, 16, 32, 64, 128],
}
_LEAST_ROUNDS = 2


def measure(batch: int, scale: float, dim: int, seconds: float) -> dict[str, float]:
    """Return the medians for one point, from as many rounds as fit into the given seconds."""
    drawn = batches(batch, scale, np.random.default_rng(0))
    sizes = table_sizes(scale)
    model = {"embedding_dim": dim}
    adagrad, hybrid = (Steps(run_config(n, batch, model=model), sizes) for n in ("adagrad", "hybrid"))
    cycle = hybrid.config.curvature_every
    times: dict[Steps, list[float]] = {adagrad: [], hybrid: []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[hybrid]) < 1 + _LEAST_ROUNDS:
        first, *rest = (next(drawn) for _ in range(1 + cycle))
        for step, found in times.items():
            step(first)  # so that caches are not in the state of the other optimizer
            began = time.perf_counter()
            for each in rest:
                step(each)
            found.append((time.perf_counter() - began) / cycle)
    a, h = times[adagrad][1:], times[hybrid][1:]  # the first round is a warm-up
    return {
        "batch": batch,
        "table_rows": sum(sizes),
        "dim": dim,
        "rounds": len(h),
        "adagrad_ms": 1e3 * statistics.median(a),
        "hybrid_ms": 1e3 * statistics.median(h),
        "hybrid_over_adagrad": statistics.median(above / below for above, below in zip(h, a, strict=True)),
    }


def _points(axis: str) -> Iterator[tuple[int, float, int]]:
    """Yield batch, scale, and width along an axis."""
    for value in _AXES[axis]:
        yield (
            value if axis == "batch" else _BATCH,
            value if axis == "table_rows" else _SCALE,
            value if axis == "dim" else _DIM,
        )


def main() -> None:
    """Print a row for each point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="seconds per point; large batches take longer"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    points = [(axis, point) for axis in _AXES for point in _points(axis)]
    with init_process_group():
        found = [
            {"axis": axis, **measure(*point, args.seconds)}
            for axis, point in tqdm(points, disable=not sys.stderr.isatty())
        ]
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
