"""Compare scoring with training in speed, and the AUC of millions of samples with scikit-learn's.

    python -m benchmarks.evaluate [--rows N] [--auc-rows N] [--json]

A Kaggle model trains with hybrid for one epoch on generated data. Its checkpoint then scores the same samples, both prepared
and as raw text. Scoring includes reading, encoding, metrics, and writing parquet. The time of training is the median step,
and that of scoring the median call after a first one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from benchmarks.prepare import write_text
from benchmarks.support.printing import print_rows
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.evaluation.job import evaluate
from dlrm_adahessian.evaluation.request import EvaluationRequest
from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runs.run_directory import RunDirectory
from dlrm_adahessian.runtime.process import keep_freed_memory
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.train.with_baseline import run_job

_BATCH = 2048


def measure_scoring(rows: int, folder: Path) -> dict[str, float]:
    """Return samples per second of training and scoring, and the ratios of scoring to training."""
    values = {"dataset": "synthetic", "optimizer": "hybrid", "baseline": "none", "rows": rows}
    settings = {
        "batch_size": _BATCH,
        "out": str(folder / "run"),
        "data": {"cache_dir": str(folder / "cache")},
    }
    config = from_dict(merged(merged(optimizer_preset("hybrid"), values), settings))
    done = run_job(config)
    if done is None:
        raise RuntimeError("This benchmark runs in one process. Start it without torchrun.")
    path = done.folder
    trained = 1e3 * _BATCH / done.run.train.step_ms_median
    prepared = RunDirectory(path).read_config()["prepared"]["folder"]
    with (folder / "rows.txt").open("wb") as file:
        write_text(file, rows, config.data.synthetic)
    found = {"rows": float(rows), "training_rows_per_second": trained}
    for name, source in (("prepared", prepared), ("raw", str(folder / "rows.txt"))):
        seconds = _seconds(
            lambda source=source: evaluate(
                EvaluationRequest(runs=[path], data=[source], out=folder / "scores.parquet")
            ),
            3,
        )
        found[f"{name}_rows_per_second"] = rows / seconds
        found[f"{name}_over_training"] = rows / seconds / trained
    return found


def measure_auc(rows: int) -> dict[str, float]:
    """Return scikit-learn's time for the AUC over ours, and the difference of the two values."""
    rng = np.random.default_rng(0)
    probability = rng.beta(1, 3, rows).astype(np.float32)
    labels = (rng.random(rows) < probability).astype(np.int8)
    ours = _seconds(lambda: binary_metrics(labels, probability), 5)
    theirs = _seconds(lambda: roc_auc_score(labels, probability), 5)
    auc = binary_metrics(labels, probability).auc
    return {
        "auc_rows": float(rows),
        "sklearn_auc_over_all_our_metrics": theirs / ours,
        "auc_difference": abs(float(auc or 0) - float(roc_auc_score(labels, probability))),
    }


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the median time of several calls after an untimed one."""
    call()
    seconds: list[float] = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400_000, help="samples to train on and score")
    parser.add_argument("--auc-rows", type=int, default=4_000_000, help="samples for the AUC")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    with tempfile.TemporaryDirectory() as folder:
        found = measure_scoring(args.rows, Path(folder)) | measure_auc(args.auc_rows)
    print_rows([found], as_json=args.json)


if __name__ == "__main__":
    main()
