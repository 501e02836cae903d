"""Mean difference between an optimizer and its baseline over the seeds of finished runs, with 95% intervals.

    for s in 0 1 2 3 4; do python train.py --data-path F --seed $s --out runs/seed-$s; done
    python -m benchmarks.seeds runs/seed-*

The intervals (Student t) cover the chance of seeds on one set of rows; those in each summary.json cover the rows.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from dlrm_adahessian.statistics.seeds import seed_interval

_METRICS = ("auc", "accuracy", "logloss")


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, help="run directories, one per seed, each with a baseline"
    )
    runs = [json.loads((run / "summary.json").read_text()) for run in parser.parse_args().runs]
    ours, baseline = runs[0]["optimizer"], runs[0]["baseline"]["optimizer"]
    print(f"| rows | metric | {ours} | {baseline} | difference | 95% interval over {len(runs)} seeds |")
    print("|---|---|---|---|---|---|")
    for part in ("progressive", "test"):
        for metric in _METRICS:
            pairs = [(run[part][metric], run["baseline"][part][metric]) for run in runs]
            mean, low, high = seed_interval([a - b for a, b in pairs])
            means = " | ".join(f"{fmean(side):.5f}" for side in zip(*pairs, strict=True))
            print(f"| {part} | {metric} | {means} | {mean:+.5f} | [{low:+.5f}, {high:+.5f}] |")


if __name__ == "__main__":
    main()
