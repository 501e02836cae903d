# pyright: basic
"""The runs of a study of days, one after the other: each day's, and those that train anew."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.daily.config import DailyConfig, day_run
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.text.sources import RAW, input_files, is_pipe
from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.finished import FinishedRun
from dlrm_adahessian.runs.kinds import WARM, require_kind
from dlrm_adahessian.runs.sealed import DamagedFolderError, exclusive_lock, require_no_links
from dlrm_adahessian.train.loop import fit
from dlrm_adahessian.train.opened_run import OpenedRun, on_all_ranks, opened_run
from dlrm_adahessian.train.results import RunResult
from dlrm_adahessian.train.run_cache import finished

SCRATCH = "scratch"


@dataclass(frozen=True, kw_only=True)
class TrainedDay:
    """What was trained by the end of a day, and tested on the next one.

    Attributes:
        day: name of the file of the day.
        tested_on: that of the next one, the first half of whose rows tests.
        warm: went on from the day before.
        scratch: trained anew on all days so far; None where no run did, as on the first day.
    """

    day: str
    tested_on: str
    warm: RunResult
    scratch: RunResult | None


def days_of(config: DailyConfig) -> list[str]:
    """Return the names of the files of the days, in natural order; a UsageError where they are fewer than three."""
    path = config.data_path or str(RAW)
    files = [] if is_pipe(path) else input_files(path, schema_of(config.dataset, config.schema).format)
    if len(files) < 3:
        raise UsageError(
            f"a study of days reads a folder with a file for each, three at least, and {path} has {len(files)}; cut the "
            "rows into files by day, whose names are in the order of the days"
        )
    return [file.name for file in files]


def run_days(config: DailyConfig) -> list[TrainedDay] | None:
    """Train day after day, and anew where the settings say so; all ranks call it.

    Args:
        config: of the study.

    Returns:
        The days but the last, which only tests; None on the ranks after the first.
    """
    with on_all_ranks(config), ExitStack() as stack:
        files, _ = ranks.first_opens(lambda: (_claim(config, stack), None))
        days = list(_days(config, files))
    return [day for day in days if day is not None] or None


def _claim(config: DailyConfig, stack: ExitStack) -> list[str]:
    """Lock the folder of the study until the stack ends; return the names of the files."""
    require_kind(config.out, "daily")
    stack.enter_context(exclusive_lock(config.out / "lock", wait=False))
    require_no_links(config.out)
    return days_of(config)


def _days(config: DailyConfig, files: Sequence[str]) -> Iterator[TrainedDay | None]:
    before = config.init_from
    for place, (day, following) in enumerate(pairwise(files)):
        name = f"{place + 1:02d}-{day}"
        folder = config.out / WARM / name
        warm = _trained(day_run(config, folder, [day], following, before), f"{day}, warm start")
        last = place == len(files) - 2
        scratch = None
        if (place or before) and (config.retrain == "every" or (config.retrain == "last" and last)):
            so_far, anew = list(files[: place + 1]), config.out / SCRATCH / name
            scratch = _trained(day_run(config, anew, so_far, following, None), f"up to {day}, from scratch")
        before = folder
        yield warm and TrainedDay(day=day, tested_on=following, warm=warm, scratch=scratch)


def _trained(config: RunConfig, title: str) -> RunResult | None:
    """Return the results of a run on the first rank, None on the others; a finished one is taken, one cut off goes on."""
    with opened_run(config) as run:
        is_done, found = ranks.first_opens(lambda: _finished(run))
        if is_done:
            return found
        fitted = fit(run.config, run.data, run.directory, run.device, title=title, start=run.start)
        if fitted is not None:
            sealed_by = run.config.fingerprint(run.data.fingerprint)
            FinishedRun.seal(run.directory.path, sealed_by, fitted.summary.asdict())
        return fitted


def _finished(run: OpenedRun) -> tuple[bool, RunResult | None]:
    try:
        found = finished(run.config, run.data, run.directory)
    except DamagedFolderError:  # of which `opened_run` told: its results are made anew from the checkpoint
        return False, None
    return found is not None, found
