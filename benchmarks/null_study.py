"""Check the coverage of intervals: compare an optimizer with itself, with both sides tuned independently.

    python -m benchmarks.null_study [--pairs 40] [--searches 3] [--trials 6] [--seeds 6] [--json]

Each pair has its own generated data, and two sides with their own seeds and searches. As in `compare`, each side has
`--searches` searches of `--trials` trials, which share `--seeds` final runs. 95% intervals over samples, seeds, and tuning
should exclude zero in about one of twenty pairs. Intervals over samples and seeds of one search, or over the samples of one
run, exclude it more often.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.support.printing import print_rows
from dlrm_adahessian.compare.config import CompareConfig, run_config, trial_config
from dlrm_adahessian.compare.search import Search, judged_logloss, reported
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.metrics.binary import METRICS
from dlrm_adahessian.model.config import DLRMConfig
from dlrm_adahessian.statistics.crossed import crossed_difference
from dlrm_adahessian.train.results import RunResult
from dlrm_adahessian.train.run_cache import find_or_fit

_NAME, _ROWS, _BATCH = "adagrad", 21_000, 128
_SIDES_APART = 1_000_000  # difference of the seeds of the two sides


def final_runs(study: CompareConfig, folder: Path) -> Iterator[RunResult]:
    """Tune one side, and yield its final runs, search by search."""
    data = open_dataset("synthetic", None, study.data, rows=_ROWS, bad_rows="strict")

    def fit(config: RunConfig) -> RunResult:
        found = find_or_fit(config, data, folder / "runs", torch.device("cpu"), title=None)
        if found is None:
            raise RuntimeError("a single rank has the result of every run")
        return found

    for number in range(study.searches):
        search = Search(run_config(study, _NAME, seed=0), study.sampler, study.search_seed(number))
        judged: list[tuple[float, dict[str, Any]]] = []
        for _ in range(study.trials):
            asked, drawn = search.ask()
            logloss = judged_logloss(
                fit(trial_config(study, _NAME, drawn, search=number)), study.select, _BATCH
            )
            search.tell(asked, logloss)
            judged.append((logloss, drawn))
        _, chosen = min(judged, key=lambda each: each[0])
        for seed in study.seeds_of(number):
            yield reported(fit(run_config(study, _NAME, seed=seed, drawn=chosen)), study.select, _BATCH)


def one_pair(number: int, args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Tune and train both sides. Yield samples, metric, what the interval covers, and whether it excludes zero."""
    data = DataConfig(cache_dir=folder, synthetic=SyntheticConfig(seed=number, cardinality_scale=0.001))
    sides = []
    for side in range(2):
        study = CompareConfig(
            dataset="synthetic", rows=_ROWS, batch_size=_BATCH, data=data, select="progressive",
            model=DLRMConfig(bottom=(32,), top=(32,), embedding_dim=8),
            searches=args.searches, trials=args.trials, seeds=args.seeds, seed=side * _SIDES_APART,
        )  # fmt: skip
        with init_process_group(torch.device("cpu")):
            sides.append(list(final_runs(study, folder)))
    of_search = args.seeds // args.searches
    ways = {  # runs of each side in an interval, and runs of each search if it covers several
        "rows, seeds and tuning": (args.seeds, [of_search] * args.searches),
        "rows and seeds": (of_search, None),
        "rows": (1, None),
    }
    for part in ("progressive", "test"):
        labels = getattr(sides[0][0], part)[0]
        for covers, (count, runs_of_searches) in ways.items():
            ours, theirs = ([getattr(run, part)[1] for run in side[:count]] for side in sides)
            difference = crossed_difference(labels, ours, theirs, runs_of_searches=runs_of_searches)
            for metric in METRICS:
                found = difference[metric]
                if found is not None:
                    yield part, metric, covers, not found.ci95[0] <= 0 <= found.ci95[1]


def main() -> None:
    """Print how many intervals exclude zero."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--searches", type=int, default=3, help="searches per side")
    parser.add_argument("--trials", type=int, default=6, help="trials per search")
    parser.add_argument(
        "--seeds", type=int, default=6, help="final runs per side, divided among its searches"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the models are too small for more threads
    excluded: Counter[tuple[str, str, str]] = Counter()
    for number in tqdm(range(args.pairs), disable=not sys.stderr.isatty()):
        with tempfile.TemporaryDirectory() as folder:
            for part, metric, covers, excludes in one_pair(number, args, Path(folder)):
                excluded[part, metric, covers] += excludes
    found = [
        {"rows": part, "metric": metric, "covers": covers, "excludes_zero": count, "pairs": args.pairs}
        for (part, metric, covers), count in excluded.items()
    ]
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
