"""Measure steps on 1, 2, and 4 ranks of this machine, and fit a model that predicts more ranks.

    python -m benchmarks.ranks [--json]

The setup is the Kaggle model with scaled published cardinalities, table-wise sharding, one thread per rank, and gloo over
loopback. Strong scaling keeps the global batch constant, and weak scaling the batch per rank. Ranks share the cores, so more
ranks than cores cannot be faster. The model (benchmarks.step_model) is fitted to 1 and 2 ranks, and tested on 4.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import cycle, islice, pairwise
from typing import Any

import numpy as np

from benchmarks.step_model import Point, Traffic, fitted
from benchmarks.support.kaggle import batches, table_sizes
from benchmarks.support.printing import print_rows
from benchmarks.support.training import Steps, run_config
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.loader import Batch, make_batch
from dlrm_adahessian.data.rows import Features
from dlrm_adahessian.data.synthetic.marginals import CLICKS, ROWS, TOKENS
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.distributed.ranks import Share
from dlrm_adahessian.runtime.process import keep_freed_memory

_SCALE = 0.01  # factor for the published cardinalities
_WORLDS = (1, 2, 4)
_SAMPLES = (512, 1024, 2048, 4096, 8192)  # per rank
_LARGEST = 16384  # global batch
_WARM_UP = 3
_STEPS = 15


def _batches(samples: int) -> list[Batch]:
    """Return a few batches for this rank."""
    share = Share(
        samples=samples * ranks.world_size(), rank=ranks.rank(), world_size=ranks.world_size(), size=samples
    )
    rng = np.random.default_rng(ranks.rank())
    drawn = batches(samples, _SCALE, rng)
    labels = np.random.default_rng(0).random(share.samples) < CLICKS / ROWS
    return [
        make_batch(
            CRITEO.features,
            Features(dense=one.dense.numpy(), ids=one.kjt.values().view(len(TOKENS), -1).T.numpy()),
            labels.astype(np.int8),
            share,
        )
        for one in (next(drawn) for _ in range(4))
    ]


def measure(name: str, samples: int) -> dict[str, float | str]:
    """Return the median step of a preset on this rank, and the computed number of bytes that it sends."""
    batch = samples * ranks.world_size()
    steps = Steps(run_config(name, batch, distributed={"sharding": "table"}), table_sizes(_SCALE))
    coming = islice(pairwise(cycle(_batches(samples))), _WARM_UP + _STEPS)
    seconds: list[float] = []
    began = time.perf_counter()
    for batch_of_rank, following in coming:
        steps(batch_of_rank, following)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    traffic = Traffic(
        features=len(TOKENS),
        dim=steps.config.model.embedding_dim,
        parameters=len(steps.state.parameters),
        row_curvature=1 if name == "hybrid_diagonal" else 0,
        dense_curvature=1 / steps.config.curvature_every if name == "hybrid_diagonal" else 0,
    )
    return {
        "optimizer": name,
        "ranks": ranks.world_size(),
        "samples": samples,
        "batch": batch,
        "step_ms": 1e3 * statistics.median(seconds[_WARM_UP:]),
        "sent_bytes": traffic.sent_bytes(ranks.world_size(), samples),
    }


def _world(count: int) -> list[dict[str, Any]]:
    """Measure with the given number of processes."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(count),
        "-m",
        "benchmarks.ranks",
    ]
    answer = subprocess.run(
        [*command, "--measure"], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return json.loads(answer.stdout)


def predictions(points: Sequence[Mapping[str, Any]], cores: int) -> list[dict[str, Any]]:
    """Return the points with predictions of a model fitted to 1 and 2 ranks, and a row for each set of coefficients."""
    rows: list[dict[str, Any]] = []
    for name in ("adagrad", "hybrid_diagonal"):
        own = [point for point in points if point["optimizer"] == name]
        model = fitted(
            [
                Point(ranks=p["ranks"], samples=p["samples"], sent_bytes=p["sent_bytes"], seconds=p["step_ms"] / 1e3)
                for p in own
                if p["ranks"] <= 2
            ],
            cores,
        )  # fmt: skip
        rows += [
            {**p, "model_ms": 1e3 * model.seconds(p["ranks"], p["samples"], p["sent_bytes"])} for p in own
        ]
        rows.append({"optimizer": name, **asdict(model)})
    return rows


def main() -> None:
    """Print a row for each measurement, and one for each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.measure:
        points = [point for count in _WORLDS for point in _world(count)]
        print_rows(predictions(points, os.cpu_count() or 1), as_json=args.json)
        return
    keep_freed_memory()
    with init_process_group():
        sizes = [size for size in _SAMPLES if size * ranks.world_size() <= _LARGEST]
        found = [measure(name, size) for size in sizes for name in ("adagrad", "hybrid_diagonal")]
        if ranks.is_first():
            print(json.dumps(found))


if __name__ == "__main__":
    main()
