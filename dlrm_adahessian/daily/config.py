"""Define the settings of a daily study, and compose its runs. Imports no torch."""

import glob
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.runtime.settings import settings


@settings
class DailyConfig(RunConfig):
    """Train on a folder with one file per day, each day with a warm start from the day before."""

    retrain: Literal["every", "last", "never"] = "every"
    """When to also train from scratch on all days so far, for comparison: every day, the last day, or never."""
    out: Path = Path("daily")  # pyright: ignore[reportIncompatibleVariableOverride], frozen
    """Folder of runs and report; the same command again continues there, also with more days."""
    baseline: Literal["none"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride], frozen
    """Always none: the comparison is with training from scratch."""


def day_run(
    study: DailyConfig, folder: Path, trains: list[str], tests: str, init_from: Path | None
) -> RunConfig:
    """Compose the run of a day.

    Args:
        study: settings of the study.
        folder: run directory.
        trains: names of the training files.
        tests: name of the test file.
        init_from: run to warm-start from; None for random weights.

    Returns:
        The configuration. It resumes a run that the folder already has.
    """
    values: dict[str, Any] = TypeAdapter(DailyConfig).dump_python(study, mode="json")
    del values["retrain"]
    files = {"train_files": [*map(glob.escape, trains)], "test_files": [glob.escape(tests)]}
    own = {"out": str(folder), "resume": True, "data": values["data"] | files}
    return from_dict({**values, **own, "init_from": init_from and str(init_from)})
