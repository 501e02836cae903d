"""Does an interval that should hold zero hold it? One optimizer against itself, with other seeds.

    python -m benchmarks.null_study [--pairs 40] [--seeds 3] [--json]

Each pair has rows of its own, generated anew, and two groups of runs that differ in their seeds alone. 95% intervals over
rows and seeds should leave out zero in about one pair of twenty; intervals over rows alone, of single runs, much more often.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.support.printing import print_rows
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.statistics.crossed import crossed_difference
from dlrm_adahessian.train.run_cache import find_or_fit

_ROWS = 21_000
_SETTINGS = {
    "dataset": "synthetic",
    "optimizer": "adagrad",
    "baseline": "none",
    "rows": _ROWS,
    "batch_size": 128,
    "model": {"bottom": [32], "top": [32], "embedding_dim": 8},
}
_METRICS = ("auc", "accuracy", "logloss")


def one_pair(number: int, seeds: int, folder: Path) -> list[dict[str, object]]:
    """Train both groups on rows of their own; return whether each interval leaves out zero."""
    data_config = {"synthetic": {"seed": number, "cardinality_scale": 0.001}, "cache_dir": str(folder)}
    configs = [
        from_dict(merged(optimizer_preset("adagrad"), {**_SETTINGS, "seed": seed, "data": data_config}))
        for seed in range(2 * seeds)
    ]
    data = open_dataset("synthetic", None, configs[0].data, rows=_ROWS, bad_rows="strict")
    device = torch.device("cpu")
    with init_process_group(device):
        runs = [find_or_fit(config, data, folder / "runs", device, title=None) for config in configs]
    found: list[dict[str, object]] = []
    for part in ("progressive", "test"):
        labels = getattr(runs[0], part)[0]
        ours, theirs = ([getattr(r, part)[1] for r in half] for half in (runs[:seeds], runs[seeds:]))
        for covers, a, b in (("rows and seeds", ours, theirs), ("rows", ours[:1], theirs[:1])):
            difference = crossed_difference(labels, a, b)
            for metric in _METRICS:
                low, high = getattr(difference, metric).ci95
                found.append(
                    {"rows": part, "covers": covers, "metric": metric, "excludes": not low <= 0 <= high}
                )
    return found


def main() -> None:
    """Print how many intervals leave out zero."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3, help="runs in each group")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the models are too small for more
    counts: dict[tuple[str, str, str], int] = {}
    for number in tqdm(range(args.pairs), disable=not sys.stderr.isatty()):
        with tempfile.TemporaryDirectory() as folder:
            for row in one_pair(number, args.seeds, Path(folder)):
                key = (str(row["rows"]), str(row["metric"]), str(row["covers"]))
                counts[key] = counts.get(key, 0) + bool(row["excludes"])
    found = [
        {"rows": rows, "metric": metric, "covers": covers, "excludes_zero": count, "pairs": args.pairs}
        for (rows, metric, covers), count in counts.items()
    ]
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
