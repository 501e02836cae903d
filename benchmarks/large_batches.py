"""How many samples does an optimizer need at a batch size, until the log loss of what it predicts first is down to a target?

    python -m benchmarks.large_batches [--sizes 256 1024 4096 16384 65536] [--target 0.47] [--rows 1400000] [--json]

Generated rows, one epoch. At each batch size every optimizer is tuned anew, as `compare` tunes: `--trials` wide draws and
`--refine` near the best, chosen by every other block of the predictions made before learning; what is told is of a final run
with another seed. Finished runs under --out are found again.
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
    """Return after how many samples the mean log loss of the next `window` ones first is at most `target`.

    Args:
        losses: (N,) of the predictions made before learning, in the order of training.
        target: log loss in nats.
        window: samples.

    Returns:
        Samples trained on by then; None where it never is.
    """
    if len(losses) < window:
        return None
    sums = np.concatenate([[0.0], np.cumsum(losses)])
    means = (sums[window:] - sums[:-window]) / window
    reached = np.flatnonzero(means <= target)
    return int(reached[0]) if len(reached) else None


def at_size(batch_size: int, args: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Tune and train every optimizer at one batch size; yield what each needed."""
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
    """Return the samples that a run needed, those of the first day, of which nothing is reported, included."""
    if run.result is None:
        return None
    predicted = run.result.progressive
    # Every other block reports, so a sample of it stands for two.
    found = samples_until(log_losses(predicted.labels, predicted.probability), target, _WINDOW // 2)
    return None if found is None else first_day + 2 * found


def main() -> None:
    """Print the samples of each optimizer at each batch size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1_024, 4_096, 16_384, 65_536])
    parser.add_argument("--optimizers", default="adagrad,adam,hybrid")
    parser.add_argument("--target", type=float, default=0.47, help="log loss")
    parser.add_argument("--rows", type=int, default=1_400_000, help="generated; 6 of 7 are for training")
    parser.add_argument("--trials", type=int, default=5, help="wide draws")
    parser.add_argument("--refine", type=int, default=3, help="draws near the best")
    parser.add_argument("--parallel", type=int, default=2, help="runs at once")
    parser.add_argument("--out", type=Path, default=Path("runs/large_batches"))
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    print_rows([row for size in args.sizes for row in at_size(size, args)], as_json=args.json)


if __name__ == "__main__":
    main()
