"""Compare an exported folder with its checkpoint: size, samples per second, and differences.

    python -m benchmarks.serving [--rows N] [--rounds N] [--json]

A Kaggle model trains with hybrid for one epoch on generated data, and is exported once for each storage type. The
checkpoint, including encoding, and the loader then predict the same raw samples in turn. The loader gets tensors, lists,
and lines of text. Ratios are medians over the rounds of one process. The loader's command line reads the same lines, and
its time includes the start.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.support.printing import print_rows
from benchmarks.support.timing import seconds
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.data.config import SyntheticConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.rows import ColumnBlock
from dlrm_adahessian.data.synthetic.generator import row_blocks, write_tsv
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.evaluation.trained_model import TrainedModel, open_trained
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runtime.process import keep_freed_memory
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.serving import loader
from dlrm_adahessian.serving.export import write_folder
from dlrm_adahessian.serving.parity import as_tensors
from dlrm_adahessian.train.with_baseline import run_job


def measure(rows: int, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Return the measurements for each storage type."""
    values = {"dataset": "synthetic", "optimizer": "hybrid", "baseline": "none", "rows": rows}
    settings = {"batch_size": 2048, "out": str(folder / "run"), "data": {"cache_dir": str(folder / "cache")}}
    run_job(from_dict(merged(merged(optimizer_preset("hybrid"), values), settings)))
    write_tsv(SyntheticConfig(), rows, folder / "rows.txt")
    with init_process_group():
        trained = open_trained(folder / "run", torch.device("cpu"), best=False)
        return [_measure(trained, rows, rounds, folder, kind) for kind in ("fp32", "bf16", "int8")]


def _measure(trained: TrainedModel, rows: int, rounds: int, folder: Path, kind: Any) -> dict[str, Any]:
    figures = write_folder(trained, folder / kind, kind)
    (drawn,) = row_blocks(SyntheticConfig(), rows, block_rows=rows)
    block = ColumnBlock(
        schema=CRITEO,
        labels=drawn.labels,
        values=drawn.integers.astype(np.float64),
        tokens=drawn.tokens,
        missing=drawn.missing[:, None],
    )
    began = time.perf_counter()
    model = loader.load(folder / kind)
    loading = time.perf_counter() - began
    tensors = as_tensors(block)
    lists = [[None if value != value else int(value) for value in row] for row in tensors[0].tolist()]
    words = [[None if value < 0 else f"{value:08x}" for value in row] for row in tensors[1].tolist()]
    lines = (folder / "rows.txt").read_bytes().splitlines(keepends=True)
    calls: dict[str, Callable[[], object]] = {
        "checkpoint": lambda: trained.score(trained.preprocessing.features(block)),
        "loader": lambda: model.probabilities(*tensors),
        "loader_lists": lambda: model.probabilities(lists, words),
        "loader_text": lambda: list(model.predict_lines(lines)),
        "loader_command": lambda: _command_line(folder / kind, folder / "rows.txt"),
    }
    timed = {name: [seconds(call)] for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            timed[name].append(seconds(call))
    warm = {name: taken[1:] for name, taken in timed.items()}
    ratios = {
        f"{name}_over_checkpoint": statistics.median(
            ours / theirs for theirs, ours in zip(taken, warm["checkpoint"], strict=True)
        )
        for name, taken in warm.items()
        if name != "checkpoint"
    }
    kept = ("tables", "bytes", "largest_error_of_an_entry", "largest_difference", "mean_difference")
    return {
        **{name: figures[name] for name in kept},
        "table_rows": sum(trained.preprocessing.num_rows),
        "load_seconds": loading,
        **{f"{name}_rows_per_second": rows / statistics.median(taken) for name, taken in warm.items()},
        **ratios,
    }


def _command_line(folder: Path, text: Path) -> None:
    with text.open("rb") as lines:
        command = [sys.executable, str(folder / "loader.py")]
        subprocess.run(command, stdin=lines, stdout=subprocess.DEVNULL, check=True)


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000, help="samples to train on and predict")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds after an untimed one")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    keep_freed_memory()  # as in training
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.rows, args.rounds, Path(folder))
    print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
