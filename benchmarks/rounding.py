"""Measure the effect of bfloat16 rounding on quality: a preset with rounding minus the same without, over samples and seeds.

    python -m benchmarks.rounding --data-path ROWS [--setting NAME] [--optimizer NAME] [--seeds N] [--json]
    torchrun --nproc-per-node 2 -m benchmarks.rounding --data-path ROWS --setting exchange_precision

Kaggle MLPs, one epoch, batch 256. `precision` rounds the operands of all matrix products, if the CPU has units for it.
`curvature_precision` rounds those of the exact diagonal, and `exchange_precision` the data of tables sent between ranks.
"""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.support.printing import print_rows
from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runtime.process import keep_freed_memory
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.statistics.crossed import crossed_difference
from dlrm_adahessian.train.results import RunResult
from dlrm_adahessian.train.run_cache import find_or_fit

_BATCH = 256


def measure(
    config: RunConfig, data: PreparedData, setting: str, seeds: int, root: Path
) -> list[dict[str, object]]:
    """Return a row for progressive and one for test samples. A collective: all ranks call it.

    Args:
        config: settings of the runs.
        data: samples of the runs.
        setting: setting that is "bf16" in one run of each seed, and "fp32" in the other.
        seeds: number of seeds.
        root: folder for the runs.
    """

    def runs(value: str) -> list[RunResult | None]:
        changed = [replace(config, seed=seed, **{setting: value}) for seed in range(1, seeds + 1)]
        return [find_or_fit(one, data, root, torch.device("cpu"), title=None) for one in changed]

    rounded, plain = [run for run in runs("bf16") if run], [run for run in runs("fp32") if run]
    what = {"setting": setting, "optimizer": config.optimizer, "ranks": ranks.world_size()}
    return [{**what, "part": part, **line} for part, line in _differences(rounded, plain)]


def _differences(rounded: list[RunResult], plain: list[RunResult]) -> Iterator[tuple[str, dict[str, object]]]:
    if not plain:  # only the first rank has results
        return
    for part in ("progressive", "test"):
        ours, theirs = ([getattr(run, part)[1] for run in runs] for runs in (rounded, plain))
        yield part, dict(crossed_difference(getattr(plain[0], part)[0], ours, theirs).asdict())


def main() -> None:
    """Print the measurements."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-path", required=True, help="raw data, or a folder of prepared data")
    parser.add_argument("--setting", default="precision", help="setting to compare")
    parser.add_argument("--optimizer", default="hybrid", help="optimizer preset")
    parser.add_argument("--seeds", type=int, default=6, help="runs per side")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    args = parser.parse_args()
    keep_freed_memory()
    values = {"dataset": "criteo", "data_path": args.data_path, "batch_size": _BATCH, "baseline": "none"}
    config = from_dict({**merged(optimizer_preset(args.optimizer), values), "optimizer": args.optimizer})
    with ExitStack() as stack:
        stack.enter_context(init_process_group())
        root = Path(ranks.first_does(lambda: stack.enter_context(tempfile.TemporaryDirectory())))
        data = open_dataset("criteo", args.data_path, config.data, rows=None, bad_rows="strict")
        found = measure(config, data, args.setting, args.seeds, root)
    if found:
        print_rows(found, as_json=args.json)


if __name__ == "__main__":
    main()
