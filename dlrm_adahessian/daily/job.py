# pyright: basic
"""Train the runs of a daily study in order: the warm start of each day, and the runs from scratch."""

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
    """The runs trained up to a day, and tested on the next one.

    Attributes:
        day: file name of the day.
        tested_on: file name of the next day. The first half of its samples is the test set.
        warm: results of the warm start from the day before.
        scratch: results of training from scratch on all days so far; None without such a run, as on the first day.
    """

    day: str
    tested_on: str
    warm: RunResult
    scratch: RunResult | None


def days_of(config: DailyConfig) -> list[str]:
    """Return the file names of the days in natural order. Fewer than three raise a UsageError."""
    path = config.data_path or str(RAW)
    files = [] if is_pipe(path) else input_files(path, schema_of(config.dataset, config.schema).format)
    if len(files) < 3:
        raise UsageError(
            f"daily reads a folder with one file per day and requires at least 3 files, but {path} has {len(files)}. "
            "Split the data into one file per day, with names in the order of the days."
        )
    return [file.name for file in files]


def run_days(config: DailyConfig) -> list[TrainedDay] | None:
    """Train all runs of a daily study that are not finished. All ranks must call it.

    Args:
        config: settings of the study.

    Returns:
        All days except the last, which is only a test set; None on all ranks but the first.
    """
    with on_all_ranks(config), ExitStack() as stack:
        files, _ = ranks.first_opens(lambda: (_claim(config, stack), None))
        days = list(_days(config, files))
    return [day for day in days if day is not None] or None


def _claim(config: DailyConfig, stack: ExitStack) -> list[str]:
    """Lock the folder of the study until the stack closes, and return the file names of the days."""
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
    """Train or resume a run unless it is finished. Return its results on the first rank, and None on the others."""
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
    except (
        DamagedFolderError
    ):  # `opened_run` logged it; training again from the checkpoint restores the results
        return False, None
    return found is not None, found
