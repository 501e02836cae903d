"""Implement `evaluate`: score samples, and report metrics, slices and differences between models."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dlrm_adahessian.checkpoint.step_folders import require_run
from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.commands.cautions import useless
from dlrm_adahessian.commands.help import Layout
from dlrm_adahessian.data.config import BadRows
from dlrm_adahessian.data.text.sources import is_pipe
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say, say_judged

if TYPE_CHECKING:
    from dlrm_adahessian.evaluation.predictions import Predictions
    from dlrm_adahessian.evaluation.results import (
        EvaluationSummary,
        Figures,
        ModelDifference,
        ModelFigures,
        SlicingFigures,
    )

logger = logging.getLogger(__name__)

LAYOUT = Layout(
    {
        "models": ("run", "best", "calibrated", "against"),
        "input data": ("data_path", "part", "bad_rows", "stdin"),
        "output": ("slices", "out", "report", "json"),
    }
)
"""Headings of --help."""
_REMEDY = "Check the label column, and that the data resembles the training data."


@settings
class EvaluateConfig:
    """Score samples with trained models, or read saved predictions, and report metrics with intervals.

    The first model is the reference. All other models, from --run and --against, are compared with it sample by sample.
    """

    run: tuple[Path, ...] = ()
    """Run directories, or checkpoints in them."""
    data_path: tuple[str, ...] = ()
    """Raw data (labels optional), or a folder from `prepare`; without --run, parquet files of predictions."""
    stdin: bool = False
    """Score text lines from standard input as they arrive; print one probability per line."""
    out: Path | None = None
    """Parquet file to write: row, label, weight (if any), probability, probability_2 (second model), ..."""
    report: Path | None = None
    """HTML report to write: metrics, curves, calibration, slices."""
    against: tuple[str, ...] = ()
    """Parquet files with predictions of other models for the same samples."""
    slices: tuple[str, ...] = ()
    """Also report metrics by file, day, calibration, token (C1 ... C26), token frequency (C1.band ...), or magnitude
    (I1 ... I13)."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Part of prepared data, or of the raw data that it was prepared from."""
    best: bool = False
    """Use the checkpoint with the lowest validation log loss; runs with early stopping always do."""
    calibrated: bool = False
    """Apply the calibration that `calibrate` fitted to each run."""
    bad_rows: BadRows = "strict"
    """strict: stop at the first bad line; quarantine: write bad lines to OUT.rejects.tsv."""
    json: bool = False
    """Print one JSON document instead of text."""


def evaluate(arguments: Sequence[str]) -> int:
    """Score samples with trained models, or evaluate saved predictions."""
    args = parsed(EvaluateConfig(), arguments, prog="python -m dlrm_adahessian evaluate", layout=LAYOUT)
    if args.stdin:
        _stream(args)
        return 0
    if not args.data_path:
        raise UsageError("evaluate requires data. Pass it with --data-path, or pipe it to --stdin.")
    require_html(args.report)
    _require_inputs(args)
    from dlrm_adahessian.evaluation.job import evaluate as evaluated
    from dlrm_adahessian.evaluation.request import EvaluationRequest

    request = EvaluationRequest(
        runs=args.run,
        data=args.data_path,
        out=args.out,
        report=args.report,
        against=args.against,
        slices=args.slices,
        part=args.part,
        best=args.best,
        bad_rows=args.bad_rows,
        calibrated=args.calibrated,
    )
    found = evaluated(request)
    write_report(args.report, found.summary, found.predictions)
    _say_found(args, found.summary)
    figures = {model.name: model.figures.metrics for model in found.summary.models if model.figures}
    if (caution := useless(figures, _REMEDY)) is not None:
        logger.warning("%s", caution)
    return 0


def _require_inputs(args: EvaluateConfig) -> None:
    """Refuse missing inputs and unwritable outputs before the slow imports that follow."""
    for run in args.run:
        require_run(run)
    for path in (*args.data_path, *args.against):
        is_pipe(path)  # raises an error if the path does not exist
    for flag, path in (("--out", args.out), ("--report", args.report)):
        if path is not None:
            require_writable(path.parent, flag)


def _say_found(args: EvaluateConfig, summary: "EvaluationSummary") -> None:
    if args.json:
        say(json.dumps(summary.asdict(), allow_nan=False))
        return
    say_judged(evaluation_table(summary))
    if args.report is not None:
        say(f"Report written to {args.report}")


def require_html(report: Path | None) -> None:
    """Raise a UsageError if the name of the report does not end with .html."""
    if report is not None and report.suffix != ".html":
        raise UsageError(
            f"--report writes an HTML file, but its name is {report}. Choose a name that ends with .html."
        )


def write_report(
    path: Path | None, summary: "EvaluationSummary", predictions: "Predictions", further: Sequence[str] = ()
) -> None:
    """Write the HTML report, if one was requested.

    Args:
        path: HTML file; None for no report.
        summary: results of the evaluation.
        predictions: predictions of all models.
        further: sentences to add to the verdict.

    Raises:
        DataError: no sample has a label.
    """
    if path is None:
        return
    if not summary.labelled:
        raise DataError(
            f"A report requires labels, but none of the {summary.samples:,} samples has one. Leave out --report."
        )
    from dlrm_adahessian.report.evaluation import write_evaluation

    write_evaluation(path, summary, predictions.labelled, further)


def _stream(args: EvaluateConfig) -> None:
    """Score the standard input."""
    others = [
        name for name in ("data_path", "out", "report", "against", "slices", "json") if getattr(args, name)
    ]
    if others or len(args.run) != 1 or args.part != "all" or args.bad_rows != "strict":
        raise UsageError(
            "--stdin requires exactly one --run and accepts only --best and --calibrated, because it prints one probability "
            "per line. For other flags, pass the data with --data-path -."
        )
    from dlrm_adahessian.evaluation.job import score_lines

    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        for probabilities in score_lines(args.run[0], lines, best=args.best, calibrated=args.calibrated):
            say("\n".join(map(str, probabilities)))  # the fewest digits that identify a float32 number
            sys.stdout.flush()


def evaluation_table(summary: "EvaluationSummary") -> str:
    """Format what `evaluate` prints: sample counts, metrics with intervals, differences, slices.

    Args:
        summary: result of `evaluation.job.evaluate`.

    Returns:
        Lines of at most 120 characters.
    """
    lines = [
        f"{summary.samples:,} samples, {summary.labelled:,} with a label, {summary.rejected:,} rejected; "
        f"{summary.seconds:.1f} s, {summary.samples_per_second:,.0f} samples/s"
    ]
    if len(summary.files) > 1:
        lines += [f"  {f.name}: {f.samples:,} samples, {f.rejected:,} rejected" for f in summary.files]
    for model in summary.models:
        if model.figures is not None:
            lines += ["", *_model_lines(model, model.figures)]
    for difference in summary.differences:
        lines += ["", *_difference_lines(difference)]
    for slicing in summary.slicings:
        lines += ["", *_slicing_lines(slicing)]
    if summary.labelled:
        lines += ["", *_notes(summary)]
    if summary.predictions is not None:
        lines += [f"Predictions written to {summary.predictions}"]
    return "\n".join(lines)


def _notes(summary: "EvaluationSummary") -> Iterator[str]:
    """Yield notes that apply to the metrics of all models."""
    if summary.missing_class is not None:
        yield f"- marks metrics that compare clicks with non-clicks. They are undefined here: {summary.missing_class}."
    if summary.weight is not None:
        total = f"{summary.weight:,.6g}"
        yield f"Metrics use sample weights, {total} in total."
    yield "95% intervals cover the sampling of data only, not seed-to-seed variation."


def _model_lines(model: "ModelFigures", figures: "Figures") -> Iterator[str]:
    from dlrm_adahessian.metrics.binary import METRICS

    source = f", {model.source.checkpoint} of {model.source.run}" if model.source else ""
    by = f", calibrated by {model.source.calibration}" if model.source and model.source.calibration else ""
    yield f"{model.name}{source}{by}"
    for name, metric in METRICS.items():
        yield _with_interval(metric.title, figures.value(name), figures.interval(name))
        if isinstance(metric.of_base_rate, str):
            yield _with_interval(
                f"constant prediction {metric.title}", figures.metrics.of_base_rate(name), None
            )
    for name, title in (("normalized_entropy", "normalized entropy"), ("calibration", "calibration")):
        yield _with_interval(title, figures.value(name), figures.interval(name))
    yield _with_interval(
        "calibration error", model.expected_calibration_error, model.calibration_error_interval
    )


def _with_interval(title: str, value: float | None, ends: tuple[float, float] | None) -> str:
    interval = f"  [{ends[0]:.5f}, {ends[1]:.5f}]" if ends else ""
    return f"  {title:<28}{'-' if value is None else f'{value:.5f}':>10}{interval}"


def _difference_lines(difference: "ModelDifference") -> Iterator[str]:
    """Yield the differences. Only log loss has a verdict, because its p value is adjusted for the number of models."""
    from dlrm_adahessian.metrics.binary import METRICS
    from dlrm_adahessian.statistics.comparison import judgment, p_words

    yield f"{difference.model} minus {difference.against} [95% interval]"
    for name, metric in METRICS.items():
        found = difference.difference[name]
        if found is None:
            yield f"  {metric.title:<28}{'-':>10}"
            continue
        low, high = found.ci95
        judged = ""
        if name == "logloss" and difference.p_adjusted is not None:
            p = difference.p_adjusted
            judged = f"  p {p_words(p)}: {judgment(found.estimate, p)}"
        yield f"  {metric.title:<28}{found.estimate:>+10.5f}  [{low:+.5f}, {high:+.5f}]{judged}"


def _slicing_lines(slicing: "SlicingFigures") -> Iterator[str]:
    """Yield the metrics of the first model on each slice, and the differences in log loss of the others."""
    from dlrm_adahessian.statistics.comparison import p_words

    yield slicing.title
    yield f"{'':<44}{'samples':>12}{'click rate':>12}{'AUC':>10}{'NE':>10}  [95% interval]"
    for entry in slicing.slices:
        figures = next(iter(entry.models.values()))
        ends = figures.interval("normalized_entropy")
        shown = (figures.value(name) for name in ("base_rate", "auc", "normalized_entropy"))
        base_rate, auc, entropy = ("-" if value is None else f"{value:.4f}" for value in shown)
        yield (
            f"  {entry.label:<42}{entry.samples:>12,}{base_rate:>12}{auc:>10}{entropy:>10}"
            + (f"  [{ends[0]:.4f}, {ends[1]:.4f}]" if ends else "")
        )
    others = [difference.model for difference in slicing.slices[0].differences] if slicing.slices else []
    for place, other in enumerate(others):
        yield f"{slicing.name}: log loss of {other} minus the first model, p adjusted over these slices"
        for entry in slicing.slices:
            found = entry.differences[place]
            if found.logloss is not None and found.p_adjusted is not None:
                low, high = found.logloss.ci95
                yield (
                    f"  {entry.label:<42}{found.logloss.estimate:>+12.5f}  [{low:+.5f}, {high:+.5f}]"
                    f"  p {p_words(found.p_adjusted)}"
                )
