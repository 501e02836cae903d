"""Measure lookup and row update against the number of tokens per bag, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.bag_length [--rounds N] [--json]

The setup has 26 tables of 100,000 rows and width 16, a batch of 2048, and bags of equal length. Row r of R has a frequency
proportional to r^(-3/4), like tokens in click logs. Derivatives at the pooled embeddings are drawn once, with curvature if
the rule reads it. The lengths take turns within one run, so that a slow moment of the machine affects all of them. A ratio
is the median over rounds of the ratio to length 1 within a round.
"""

import argparse
import statistics
import time

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.support.printing import print_rows
from benchmarks.support.training import run_config
from dlrm_adahessian.embeddings.local_tables import RowTables
from dlrm_adahessian.optim.rows import RowConfig, RowwiseAdagradConfig
from dlrm_adahessian.runtime.process import keep_freed_memory

_LENGTHS = (1, 2, 5, 10, 20, 50, 100)
_TABLES, _ROWS, _DIM, _BATCH = 26, 100_000, 16, 2048
_WARM_UP = 1


class Step:
    """Look up the same bags and update their rows, once per call."""

    def __init__(self, cfg: RowConfig, generator: torch.Generator) -> None:
        self._tables = RowTables(
            [_ROWS] * _TABLES,
            _DIM,
            list(range(_TABLES)),
            rule=cfg.build(),
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        self._tables.weight.normal_(std=0.01, generator=generator)
        bags = _BATCH * _TABLES
        self._grad = torch.randn(bags, _DIM, generator=generator).div_(_BATCH)
        width = {"none": 0, "mean": 1, "entries": _DIM}[cfg.pooled_curvature]
        curvature = torch.rand(bags, width, generator=generator).div_(_BATCH)
        self._curvature = curvature if width else None

    def __call__(self, indices: Tensor, offsets: Tensor) -> tuple[float, float]:
        """Return the seconds of the lookup and of the update.

        Args:
            indices: (L,) int64.
            offsets: (T * B + 1,) int64.
        """
        began = time.perf_counter()
        self._tables(indices, offsets)
        looked_up = time.perf_counter()
        self._tables.apply_(self._grad, self._curvature, sampled=None, lr_scale=1.0, samples=_BATCH)
        return looked_up - began, time.perf_counter() - looked_up


def bags(length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the ids of a batch, and return them with the offsets of their bags."""
    count = _BATCH * _TABLES
    ids = torch.rand(count * length, generator=generator).pow_(4).mul_(_ROWS).long().clamp_(max=_ROWS - 1)
    return ids, torch.arange(count + 1) * length


def measure(cfg: RowConfig, rounds: int) -> list[dict[str, float | str]]:
    """Return the medians for each length, in milliseconds."""
    generator = torch.Generator().manual_seed(0)
    step = Step(cfg, generator)
    drawn = {length: bags(length, generator) for length in _LENGTHS}
    times = [
        {length: step(*lookups) for length, lookups in drawn.items()}
        for _ in tqdm(range(_WARM_UP + rounds), desc=cfg.name, disable=None)
    ][_WARM_UP:]
    return [
        {
            "rule": cfg.name,
            "values_per_bag": length,
            "lookup_ms": 1e3 * statistics.median(of_round[length][0] for of_round in times),
            "update_ms": 1e3 * statistics.median(of_round[length][1] for of_round in times),
            "over_one_value": statistics.median(
                sum(of_round[length]) / sum(of_round[1]) for of_round in times
            ),
        }
        for length in _LENGTHS
    ]


def main() -> None:
    """Print a row for each rule and length."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds per rule")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    rules = (RowwiseAdagradConfig(), run_config("hybrid", _BATCH).optim.rows)
    print_rows([row for cfg in rules for row in measure(cfg, args.rounds)], as_json=args.json)


if __name__ == "__main__":
    main()
