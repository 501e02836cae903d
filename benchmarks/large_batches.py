"""Measure how many samples an optimizer needs to reach a target log loss at a given batch size.

    python -m benchmarks.large_batches [--sizes 256 1024 4096 16384 65536] [--target 0.47] [--rows 1400000] [--json]

Runs train for one epoch on generated data. At each batch size, every optimizer is tuned as in `compare`, with `--trials`
wide trials and `--refine` trials near the best, selected on every other block of the progressive predictions. Results come
from a final run with another seed. Finished runs under --out are reused.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.support.printing import print_rows
from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.compare.study import Run, run_study
from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.metrics.binary import log_losses
from dlrm_adahessian.model.config import DLRMConfig

_WINDOW = 65_536  # samples whose mean log loss is compared with the target


def samples_until(losses: npt.NDArray[np.float64], target: float, window: int = _WINDOW) -> int | None:
    """Return the first number of samples after which the mean log loss of the next `window` ones is at most `target`.

    Args:
        losses: (N,) log losses of the progressive predictions, in the order of training.
        target: log loss in nats.
        window: number of samples.

    Returns:
        Number of samples trained on by then; None if the target is never reached.
    """
    if len(losses) < window:
        return None
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    means = (sums[window:] - sums[:-window]) / window
    reached = np.flatnonzero(means <= target)
    return int(reached[0]) if len(reached) else None


def at_size(batch_size: int, args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Tune and train every optimizer at one batch size, and yield the number of samples that each one needed."""
    study = run_study(
        CompareConfig(
            dataset="synthetic", rows=args.rows, batch_size=batch_size, data=DataConfig(cache_dir=args.out / "cache"),
            model=DLRMConfig(bottom=(64, 32), top=(64, 32)), optimizers=args.optimizers, select="progressive",
            trials=args.trials, refine=args.refine, seeds=1, parallel=args.parallel, out=args.out / str(batch_size),
        )
    )  # fmt: skip
    first_day = study.data.split.days[1]
    for contender in study.contenders:
        (run,) = contender.finals
        yield {
            "batch": batch_size,
            "optimizer": contender.name,
            "samples_to_target": _needed(run, first_day, args.target),
            "target": args.target,
            "last_logloss": None if run.summary is None else run.summary.val.logloss,
            **{name: value for name, value in run.drawn.items() if name.endswith("lr")},
        }


def _needed(run: Run, first_day: int, target: float) -> int | None:
    """Return the number of samples that a run needed, including the first day, which has no reported predictions."""
    if run.result is None:
        return None
    predicted = run.result.progressive
    # Only every other block reports, so each of its samples counts twice.
    found = samples_until(log_losses(predicted.labels, predicted.probability), target, _WINDOW // 2)
    return None if found is None else first_day + 2 * found


def main() -> None:
    """Print the number of samples for each optimizer and batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1_024, 4_096, 16_384, 65_536])
    parser.add_argument("--optimizers", default="adagrad,adam,hybrid")
    parser.add_argument("--target", type=float, default=0.47, help="target log loss")
    parser.add_argument("--rows", type=int, default=1_400_000, help="generated samples; 6 of 7 train")
    parser.add_argument("--trials", type=int, default=5, help="wide trials")
    parser.add_argument("--refine", type=int, default=3, help="trials near the best")
    parser.add_argument("--parallel", type=int, default=2, help="parallel runs")
    parser.add_argument("--out", type=Path, default=Path("runs/large_batches"))
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    print_rows([row for size in args.sizes for row in at_size(size, args)], as_json=args.json)


if __name__ == "__main__":
    main()
