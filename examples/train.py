"""Train the preset `hybrid` and its Adagrad baseline on generated samples, from Python.

python examples/train.py FOLDER
"""

import sys

from dlrm_adahessian.commands.train import job_table
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.presets import optimizer_preset
from dlrm_adahessian.runtime.settings import merged
from dlrm_adahessian.train.with_baseline import run_job


def main(folder: str) -> None:
    """Train, and print the final table."""
    # The same keys as in a TOML file. Other settings come from the preset or are defaults.
    settings = {
        "optimizer": "hybrid",
        "dataset": "synthetic",
        "rows": 10_000,
        "batch_size": 128,
        "model": {"bottom": [32], "top": [32]},
        "data": {"cache_dir": f"{folder}/cache"},
        "out": f"{folder}/run",
    }
    done = run_job(from_dict(merged(optimizer_preset("hybrid"), settings)))
    print(job_table(done))
    print(f"{done.folder}: test log loss {done.run.test.logloss:.4f} after {done.run.train.steps} steps")


if __name__ == "__main__":
    main(sys.argv[1])
