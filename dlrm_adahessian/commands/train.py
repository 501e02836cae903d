"""`train`: an optimizer and its baseline on the same rows."""

from collections.abc import Sequence

from dlrm_adahessian import config
from dlrm_adahessian.commands.arguments import config_file, parsed, value_of
from dlrm_adahessian.data.config import GENERATED
from dlrm_adahessian.data.text.sources import require_rows
from dlrm_adahessian.runs.run_directory import RUNS
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.launcher import alone, told_once
from dlrm_adahessian.runtime.terminal import say

_HELP = """Train DLRM with a second-order hybrid, then its baseline on the same rows, and compare them.

--config FILE.toml reads settings from a file; flags win over the file, the file over the preset of the optimizer
(presets/optimizers). The defaults shown below already include both."""


def train(arguments: Sequence[str]) -> int:
    """Train an optimizer and its baseline, and compare them."""
    with told_once():
        base = config.load(config_file(arguments), value_of(arguments, "--optimizer"))
        settings = parsed(base, arguments, prog="train.py", description=_HELP)
    if (
        alone()
    ):  # before the imports below, which take seconds; of several ranks the first one tells all, later
        if settings.dataset not in GENERATED:
            require_rows(settings.data_path, "train")
        require_writable(settings.out or RUNS, "--out")
        require_writable(settings.data.cache_dir, "--data.cache-dir")
    from dlrm_adahessian.commands.text_tables import job_table
    from dlrm_adahessian.train.with_baseline import run_job

    done = run_job(settings)
    if done is None:  # another rank reports
        return 0
    say(f"{job_table(done.asdict())}\n\nwritten to {done.folder}/summary.json")
    return 0
