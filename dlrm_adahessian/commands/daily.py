"""Implement `daily`: train one model day by day, and compare it with models trained from scratch."""

from collections.abc import Sequence

from dlrm_adahessian import config
from dlrm_adahessian.commands import train
from dlrm_adahessian.commands.arguments import config_file, model_name, parsed, spelled_out, value_of
from dlrm_adahessian.commands.help import ROWS, Layout, WithRates
from dlrm_adahessian.daily.config import DailyConfig
from dlrm_adahessian.data.config import GENERATED
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.text.sources import require_rows
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.launcher import alone, told_once
from dlrm_adahessian.runtime.settings import read_toml, validated
from dlrm_adahessian.runtime.terminal import say

_HELP = """Train on a folder with one file per day, in the natural order of the file names.

Each day's run starts from the run of the day before (a warm start), and is tested on the first half of the next day.
It is compared with models trained from scratch on all days so far, as often as --retrain says. The report has metrics with
intervals, and costs, by day. Run the same command again after an interruption or when a new day arrives: finished runs are
kept. Flags override the --config file, which overrides the optimizer preset."""
LAYOUT = Layout(
    basic={
        "input data": ROWS,
        "model and optimizer": ("model", "optimizer"),
        "learning": ("lr", "rows_lr", "batch_size", "epochs", "seed"),
        "study": ("out", "retrain", "init_from", "device", "config"),
    },
    advanced=train.LAYOUT.advanced,
    before=WithRates(),
)
"""Headings of --help and --help-all."""


def daily(arguments: Sequence[str]) -> int:
    """Train day by day, and compare with training from scratch."""
    arguments = spelled_out(arguments)
    with told_once():  # all ranks find the same error in the flags
        settings = _settings(arguments)
    if settings.dataset in GENERATED:
        raise UsageError(
            f"daily reads a folder with one file per day, but --dataset {settings.dataset} has no files. Pass a folder with "
            "--data-path, and the --dataset or --schema that describes it."
        )
    if alone():  # fail before the imports below, which take seconds
        require_rows(settings.data_path, "daily", schema_of(settings.dataset, settings.schema).format)
        require_writable(settings.out, "--out")
    from dlrm_adahessian.daily.job import run_days
    from dlrm_adahessian.daily.summary import summarize
    from dlrm_adahessian.report.daily import daily_verdicts, write_daily

    days = run_days(settings)
    if days is None:  # another rank reports
        return 0
    found = summarize(days)
    write_daily(settings.out, found)
    say(
        "\n".join(
            [
                *(verdict.sentence for verdict in daily_verdicts(found)),
                "",
                f"Report written to {settings.out}/report.html",
            ]
        )
    )
    return 0


def below_flags(arguments: Sequence[str]) -> DailyConfig:
    """Return the defaults of the flags, from config file and preset."""
    file = config_file(arguments)
    values = read_toml(file) if file else {}
    own = {name: values.pop(name) for name in ("retrain", "out") if name in values}
    base = config.composed(values, value_of(arguments, "--optimizer"), model_name(arguments))
    return validated(DailyConfig, {**config.asdict(base), "out": "daily", **own, "baseline": "none"})


def _settings(arguments: Sequence[str]) -> DailyConfig:
    return parsed(
        below_flags(arguments),
        arguments,
        prog="python -m dlrm_adahessian daily",
        description=_HELP,
        read=("--config", "--model"),
        layout=LAYOUT,
    )
