"""Implement `train`: train an optimizer and its baseline on the same samples."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrm_adahessian import config
from dlrm_adahessian.commands.arguments import SHORT, config_file, model_name, parsed, spelled_out, value_of
from dlrm_adahessian.commands.cautions import slowed, useless
from dlrm_adahessian.commands.help import ROWS, Layout, WithRates
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.config import GENERATED
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.text.sources import is_prepared, require_rows
from dlrm_adahessian.errors import ProgramError
from dlrm_adahessian.presets import OPTIMIZER_SETTINGS, optimizer_name
from dlrm_adahessian.runs.run_directory import RUNS, RunDirectory, default_run_path
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.launcher import alone, printed_once
from dlrm_adahessian.runtime.process import host_memory, require_gpu_driver
from dlrm_adahessian.runtime.settings import merged, read_toml
from dlrm_adahessian.runtime.terminal import say_judged
from dlrm_adahessian.train.recorded import RecordedRun

if TYPE_CHECKING:
    from dlrm_adahessian.metrics.binary import BinaryMetrics
    from dlrm_adahessian.statistics.comparison import Difference
    from dlrm_adahessian.train.results import RunSummary
    from dlrm_adahessian.train.with_baseline import JobResult

logger = logging.getLogger(__name__)

_HELP = """Train a model and a baseline on the same samples, and compare them.

Flags override the --config file, which overrides the optimizer preset. The defaults below include both."""
LAYOUT = Layout(
    basic={
        "input data": ROWS,
        "model and optimizer": ("model", "optimizer", "baseline"),
        "learning": ("lr", "rows_lr", "batch_size", "epochs", "seed"),
        "run": ("out", "resume", "init_from", "device", "config"),
    },
    advanced={
        "curvature": ("curvature", "curvature_every", "curvature_fraction", "curvature_probes"),
        "precision": ("precision", "curvature_precision", "exchange_precision"),
        "validation": ("eval_every", "patience"),
        "start": ("init_checkpoint", "init_row_decay"),
        "profile": ("profile",),
        "checkpoints": ("checkpoint_every", "checkpoint_keep", "checkpoint_in_background"),
    },
    before=WithRates(),
)
"""Headings of --help and --help-all."""


def train(arguments: Sequence[str]) -> int:
    """Train a model and a baseline, and compare them."""
    settings = _settings(spelled_out(arguments))
    if (
        alone()
    ):  # fail before the imports below, which take seconds; several ranks check later, and one reports
        if settings.dataset not in GENERATED:
            require_rows(settings.data_path, "train", schema_of(settings.dataset, settings.schema).format)
        require_gpu_driver(settings.device)
        require_writable(settings.out or RUNS, "--out")
        require_writable(settings.data.cache_dir, "--data.cache-dir")
    from dlrm_adahessian.train.with_baseline import run_job

    done = run_job(settings)
    if done is None:  # another rank reports
        return 0
    say_judged(f"{job_table(done)}\n\nResults written to {done.folder}/summary.json")
    for caution in job_cautions(done):
        logger.warning("%s", caution)
    return 0


def _settings(arguments: Sequence[str]) -> RunConfig:
    """Parse the settings. If one of several ranks finds an error, all ranks learn of it before they exit."""
    try:
        with printed_once():
            below = _below_flags(arguments)
            found = parsed(
                below,
                arguments,
                prog="train.py",
                description=_HELP,
                read=("--config", "--model", *SHORT),
                layout=LAYOUT._replace(
                    before=WithRates(lr=below.optim.dense.lr, rows_lr=below.optim.rows.lr)
                ),
            )
            if not found.resume:  # a resumed run has its actual sizes, and is checked when it is opened
                found.require_memory(host_memory(), *_columns(found))
            return found
    except ProgramError as refusal:
        if alone():  # skips the import of torch
            raise
        from dlrm_adahessian.distributed import agreement, process_group, ranks

        with process_group.init_process_group(), ranks.one_voice():
            agreement.require_none_refused(refusal)
        raise


def _columns(settings: RunConfig) -> tuple[int, int]:
    """Return the numbers of numeric and categorical features; for prepared data, which is not read yet, a lower bound."""
    if settings.data_path and is_prepared(settings.data_path):
        return 0, 1
    schema = schema_of(settings.dataset, settings.schema)
    return len(schema.dense_names), len(schema.categorical)


def _below_flags(arguments: Sequence[str]) -> RunConfig:
    """Return the defaults of the flags: from the run to resume or start from, if any, else from file and preset."""
    file, optimizer, model = config_file(arguments), value_of(arguments, "--optimizer"), model_name(arguments)
    base = config.load(file, optimizer, model)
    if not (base.resume or "--resume" in arguments):
        named = value_of(arguments, "--init-from") or base.init_from
        return _of_start(Path(named), file, optimizer, model) if named else base
    dataset, schema = value_of(arguments, "--dataset") or base.dataset, value_of(arguments, "--schema")
    stem = config.run_stem(dataset, Path(schema) if schema else base.schema, base.optimizer)
    named = value_of(arguments, "--out") or base.out
    run = RunDirectory(Path(named) if named else default_run_path(RUNS, stem, resume=True))
    begun = RecordedRun.find(run)
    if begun is None:
        return base
    return _below(begun.config, {"out": str(run.path), "profile": 0}, file, optimizer, model)


def _of_start(folder: Path, file: Path | None, optimizer: str | None, model: str | None) -> RunConfig:
    """Return the settings of a run that starts from another: those of the other, except its data and output folder."""
    values = {
        "init_from": str(folder),
        "init_checkpoint": None,
        "init_row_decay": 1.0,
        "baseline": "none",
        "profile": 0,
    }
    of_rows = {"train_rows": None, "train_files": (), "test_files": ()}
    return _below(
        RecordedRun.read(RunDirectory(folder)).config,
        {**values, "out": None, "resume": False, "data_path": None, "rows": None, "data": of_rows},
        file,
        optimizer,
        model,
    )


def _below(
    recorded: RunConfig, own: Mapping[str, Any], file: Path | None, optimizer: str | None, model: str | None
) -> RunConfig:
    """Return the settings of a recorded run, overridden by `own` and by the config file."""
    values, above = config.asdict(recorded), merged(own, read_toml(file) if file else {})
    optimizer = optimizer or above.get("optimizer")
    same_model = model in (None, recorded.model.name)
    if same_model and (optimizer is None or optimizer_name(optimizer) == recorded.optimizer):
        return config.from_dict(merged(values, above))  # complete, since the preset file may be gone
    if optimizer is not None and optimizer_name(optimizer) != recorded.optimizer:
        # --resume refuses another optimizer when it opens the run. Until then, accept the flags of that optimizer.
        values = {key: value for key, value in values.items() if key not in OPTIMIZER_SETTINGS}
    if not same_model:  # likewise; the curvature depends on the model
        values = {key: value for key, value in values.items() if key not in ("model", "curvature")}
    return config.composed(merged(values, above), optimizer or recorded.optimizer, model)


def job_table(job: "JobResult") -> str:
    """Format the table at the end of a training job.

    Args:
        job: result of `run_job`.

    Returns:
        Lines of at most 100 characters, with three metrics.
    """
    from dlrm_adahessian.metrics.binary import METRICS

    runs = _runs(job)
    lines = [_line("", [*(metric.title for metric in METRICS.values()), "NE", "ms/step", "samples/s"])]
    for name, run in runs.items():
        lines.append(_line(f"progressive {name}", _cells(run.progressive)))
    for name, run in runs.items():
        lines.append(_line(f"test        {name}", [*_cells(run.test), *_speed(run)]))
    known = [job.run.test.of_base_rate(name) for name in METRICS]
    of_base_rate = ["" if value is None else _cell(value) for value in known]
    lines.append(_line("test        constant prediction", [*of_base_rate, _cell(1.0)]))
    if job.run.bayes:
        lines.append(_line("test        best possible (Bayes)", _cells(job.run.bayes)))
    if job.baseline and job.difference:
        lines += ["", f"{job.run.optimizer} minus {job.baseline.optimizer} [95% interval]"]
        for part, found in (("progressive", job.progressive_difference), ("test", job.difference)):
            lines += _difference_lines(part, found) if found else ()
        lines += [
            "Intervals cover the sampling of data only. To include seed-to-seed variation, run on the same data:",
            f"dlrm-adahessian compare --optimizers {job.baseline.optimizer},{job.run.optimizer} --seeds 10",
        ]
    if job.run.test.weight is not None:
        lines.append("Metrics use sample weights.")
    return "\n".join(lines)


def job_cautions(job: "JobResult") -> list[str]:
    """Return warnings about the results: models without skill, and speeds measured on a busy machine."""
    runs = _runs(job)
    remedy = (
        "Lower --lr and --rows-lr."
        if any(run.test.beats_base_rate for run in runs.values())
        else "Check the label column and the order of the samples, lower --lr and --rows-lr, or use more data."
    )
    found = (
        useless({name: run.test for name, run in runs.items()}, remedy),
        slowed({name: run.train.waited_share for name, run in runs.items()}),
    )
    return [caution for caution in found if caution is not None]


def _runs(job: "JobResult") -> "dict[str, RunSummary]":
    runs = {job.run.optimizer: job.run}
    if job.baseline:
        runs[f"{job.baseline.optimizer} (baseline)"] = job.baseline
    return runs


def _speed(run: "RunSummary") -> list[str]:
    """Return the median step time, and samples per second computed from it. A mean would include every pause."""
    ms = run.train.step_ms_median
    return [f"{ms:,.2f}", f"{1e3 * run.batch_size / ms:,.0f}" if ms else "-"]


def _line(name: str, cells: Sequence[str]) -> str:
    return (f"{name:<34}" + "".join(f"{cell:>11}" for cell in cells)).rstrip()


def _cells(found: "BinaryMetrics") -> list[str]:
    from dlrm_adahessian.metrics.binary import METRICS

    return [_cell(getattr(found, name)) for name in (*METRICS, "normalized_entropy")]


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _difference_lines(part: str, difference: "Difference") -> Iterator[str]:
    from dlrm_adahessian.metrics.binary import METRICS

    for name, metric in METRICS.items():
        found = difference[name]
        if found is None:
            yield f"{part:<12}{name:<10} -"
            continue
        low, high = found.ci95
        better = (found.estimate > 0) == metric.higher_is_better
        verdict = "no significant difference" if low <= 0 <= high else "better" if better else "worse"
        yield f"{part:<12}{name:<10} {found.estimate:+.5f}  [{low:+.5f}, {high:+.5f}]  {verdict}"
