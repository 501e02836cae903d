"""`daily`: a model that trains on day after day, against models trained anew."""

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

_HELP = """Train on a folder of days, a file each, in the natural order of their names.

Each day's run goes on from that of the day before (a warm start), and is tested on the first half of the next day, which
it has not seen. --retrain compares it with models that learn all days so far from random weights. The report has figures
by day, with intervals and costs. Start it again to go on after an interruption, or when a day has come: finished runs are
kept. Flags win over the file of --config, the file over the preset of the optimizer."""
LAYOUT = Layout(
    basic={
        "rows": ROWS,
        "model and optimizer": ("model", "optimizer"),
        "learning": ("lr", "rows_lr", "batch_size", "epochs", "seed"),
        "study": ("out", "retrain", "init_from", "device", "config"),
    },
    advanced=train.LAYOUT.advanced,
    before=WithRates(),
)
"""What --help and --help-all show of the flags."""


def daily(arguments: Sequence[str]) -> int:
    """Train on day after day, and compare with training from scratch."""
    arguments = spelled_out(arguments)
    with told_once():  # a wrong flag is wrong on all ranks
        settings = _settings(arguments)
    if settings.dataset in GENERATED:
        raise UsageError(
            "a study of days reads a folder with a file for each, and generated rows have none; name the folder with "
            "--data-path"
        )
    if alone():  # before the imports below, which take seconds
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
                f"written to {settings.out}/report.html",
            ]
        )
    )
    return 0


def below_flags(arguments: Sequence[str]) -> DailyConfig:
    """Return the settings that flags win over: of file and preset."""
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
