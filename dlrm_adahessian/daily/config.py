"""Settings of a study of days: those of its runs, and which days it trains anew after. Imports no torch."""

import glob
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from dlrm_adahessian.config import RunConfig, from_dict
from dlrm_adahessian.runtime.settings import settings


@settings
class DailyConfig(RunConfig):
    """Train on a folder of days, a file each: every day the model goes on from the day before."""

    retrain: Literal["every", "last", "never"] = "every"
    """Train anew on all days so far, to compare with: after every day, after the last one, or never."""
    out: Path = Path("daily")  # pyright: ignore[reportIncompatibleVariableOverride], frozen
    """Folder of the runs and the report; started again, the study goes on, also with more days."""
    baseline: Literal["none"] = "none"  # pyright: ignore[reportIncompatibleVariableOverride], frozen
    """There is none: training anew is what is compared with."""


def day_run(
    study: DailyConfig, folder: Path, trains: list[str], tests: str, init_from: Path | None
) -> RunConfig:
    """Compose the run of a day.

    Args:
        study: the study.
        folder: the run directory.
        trains: names of the files that it trains on.
        tests: name of the file that it is tested on.
        init_from: the run that it goes on from; None for random weights.

    Returns:
        Its configuration; it continues what the folder holds.
    """
    values: dict[str, Any] = TypeAdapter(DailyConfig).dump_python(study, mode="json")
    del values["retrain"]
    files = {"train_files": [*map(glob.escape, trains)], "test_files": [glob.escape(tests)]}
    own = {"out": str(folder), "resume": True, "data": values["data"] | files}
    return from_dict({**values, **own, "init_from": init_from and str(init_from)})
