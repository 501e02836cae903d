"""Measure the memory of tables as large as Criteo Kaggle's (33.76 million rows of width 16) with each row optimizer.

    python -m benchmarks.tables [--steps N] [--cardinality-scale S] [--json]

Each rule runs in a separate process, which trains the Kaggle model with dense Adagrad on random batches of 2048: ids follow
the published cardinalities and frequencies, and numbers and labels are uniform. Peak memory is that of the whole process,
including libraries.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from typing import get_args

import numpy as np
from tqdm import tqdm

from benchmarks.prepare import peak_rss_mib
from benchmarks.support.kaggle import batches, table_sizes
from benchmarks.support.printing import print_rows
from benchmarks.support.training import Steps
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.optim.config import OptimConfig
from dlrm_adahessian.optim.dense import AdagradConfig
from dlrm_adahessian.optim.rows import RowConfig
from dlrm_adahessian.runtime.process import keep_freed_memory

_BATCH = 2048


def _rules() -> dict[str, RowConfig]:
    """Return every row rule with its defaults, and also with one accumulator per row if it has this option."""
    kinds = get_args(RowConfig)
    rules = {kind().name: kind() for kind in kinds}
    for kind in kinds:
        if "rowwise" in {field.name for field in dataclasses.fields(kind)}:
            rules[f"{kind().name}, rowwise"] = kind(rowwise=True)
    return dict(sorted(rules.items()))


def measure(rule: str, scale: float, steps: int) -> dict[str, float | str]:
    """Train a few steps in this process, and return the cost of the tables."""
    sizes = table_sizes(scale)
    drawn = batches(_BATCH, scale, np.random.default_rng(0))
    with init_process_group():
        training = Steps(_config(rule), sizes)
        for _ in tqdm(range(steps), desc=rule, disable=not sys.stderr.isatty()):
            training(next(drawn))
        lookup = training.state.lookup
        weight = sum(table.nbytes for table in lookup.tables().values())
        state = sum(part.nbytes for parts in lookup.row_states().values() for part in parts.values())
    rows = sum(sizes)
    return {
        "rule": rule,
        "table_rows": rows,
        "weight_bytes": weight,
        "state_bytes": state,
        "weight_bytes_per_row": weight / rows,
        "state_bytes_per_row": state / rows,
        "peak_rss_mib": peak_rss_mib(),
        "steps": steps,
    }


def _config(rule: str) -> RunConfig:
    optim = OptimConfig(dense=AdagradConfig(), rows=_rules()[rule])
    curvature = "exact" if optim.uses_curvature else "none"
    return RunConfig(optimizer=rule, baseline="none", batch_size=_BATCH, curvature=curvature, optim=optim)


def main() -> None:
    """Print a row for each rule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--cardinality-scale", type=float, default=1.0, help="factor for the published cardinalities"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.add_argument("--measure", metavar="RULE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        keep_freed_memory()  # as in training
        print(json.dumps(measure(args.measure, args.cardinality_scale, args.steps)))
        return
    flags = ["--steps", str(args.steps), "--cardinality-scale", str(args.cardinality_scale)]
    command = [sys.executable, "-m", "benchmarks.tables", *flags, "--measure"]
    outputs = [
        subprocess.run([*command, rule], check=True, stdout=subprocess.PIPE).stdout for rule in _rules()
    ]
    print_rows([json.loads(output) for output in outputs], as_json=args.json)


if __name__ == "__main__":
    main()
