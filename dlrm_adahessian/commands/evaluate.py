"""`evaluate`: rows to predictions, figures, slices and a report."""

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
        "rows": ("data_path", "part", "bad_rows", "stdin"),
        "figures": ("slices", "out", "report", "json"),
    }
)
"""What --help shows of the flags."""
_REMEDY = "check which column is the label, and that the rows are like those that the model was trained on"


@settings
class EvaluateConfig:
    """Score rows with trained models, or take predictions of before; say how good they are, and where.

    The first model is the reference: later ones, of --run and of --against, are compared with it row by row.
    """

    run: tuple[Path, ...] = ()
    """Run directories of training jobs, or checkpoints in them."""
    data_path: tuple[str, ...] = ()
    """Raw rows, with labels or without (files, .gz, dac.tar.gz, folders, -); or a folder of prepared rows; or, without
    --run, parquet files of predictions."""
    stdin: bool = False
    """Score rows of the standard input as they come, as text by the run's schema, and print a probability a line."""
    out: Path | None = None
    """Parquet file to write: row, label (null where there is none), weight (where rows have one), probability (of further
    models probability_2, ...)."""
    report: Path | None = None
    """HTML file to write: figures, curves, calibration and slices, readable without a network."""
    against: tuple[str, ...] = ()
    """Parquet files of predictions of the same rows by other models."""
    slices: tuple[str, ...] = ()
    """Parts of the rows with figures of their own: file, day, calibration, C1 ... C26 (tokens), C1.band ... (how frequent
    they are), I1 ... I13 (magnitudes)."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Part of prepared rows, or of the raw ones that they were prepared from."""
    best: bool = False
    """Score with the checkpoint of the lowest validation log loss, not the last; runs with patience always do."""
    calibrated: bool = False
    """Predict with the calibration that `calibrate` fitted for each run."""
    bad_rows: BadRows = "strict"
    """Stop at the first bad line, or set bad lines aside in OUT.rejects.tsv and count them."""
    json: bool = False
    """Print one JSON document instead of text."""


def evaluate(arguments: Sequence[str]) -> int:
    """Score rows with trained models, or judge predictions of before."""
    args = parsed(EvaluateConfig(), arguments, prog="python -m dlrm_adahessian evaluate", layout=LAYOUT)
    if args.stdin:
        _stream(args)
        return 0
    if not args.data_path:
        raise UsageError("evaluate needs rows: name them with --data-path, or give them to --stdin")
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
    """Refuse what is not there or cannot be written before the imports that follow, which take seconds."""
    for run in args.run:
        require_run(run)
    for path in (*args.data_path, *args.against):
        is_pipe(path)  # which refuses what is not there
    for flag, path in (("--out", args.out), ("--report", args.report)):
        if path is not None:
            require_writable(path.parent, flag)


def _say_found(args: EvaluateConfig, summary: "EvaluationSummary") -> None:
    if args.json:
        say(json.dumps(summary.asdict(), allow_nan=False))
        return
    say_judged(evaluation_table(summary))
    if args.report is not None:
        say(f"report written to {args.report}")


def require_html(report: Path | None) -> None:
    """Refuse a report under another name than that of an HTML file; raises a UsageError."""
    if report is not None and report.suffix != ".html":
        raise UsageError(f"--report is an HTML file, got {report}; end its name with .html")


def write_report(
    path: Path | None, summary: "EvaluationSummary", predictions: "Predictions", further: Sequence[str] = ()
) -> None:
    """Write what `--report` asks for.

    Args:
        path: the HTML file; None where it is not asked for.
        summary: of the predictions.
        predictions: of all models.
        further: sentences of the verdict beside those of any evaluation.

    Raises:
        DataError: no sample has a label.
    """
    if path is None:
        return
    if not summary.labelled:
        raise DataError(
            f"a report needs labels, and none of {summary.samples:,} rows has one; leave out --report"
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
            "--stdin goes with one --run alone, since its output is a probability for each row; "
            "for files, figures and bad lines give the rows as --data-path -"
        )
    from dlrm_adahessian.evaluation.job import score_lines

    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        for probabilities in score_lines(args.run[0], lines, best=args.best, calibrated=args.calibrated):
            say("\n".join(map(str, probabilities)))  # as few digits as tell float32 numbers apart
            sys.stdout.flush()


def evaluation_table(summary: "EvaluationSummary") -> str:
    """Return what `evaluate` prints: samples, a line for each figure with its interval, differences, slices.

    Args:
        summary: of `evaluation.job.evaluate`.

    Returns:
        Lines of at most 120 characters.
    """
    lines = [
        f"{summary.samples:,} rows, {summary.labelled:,} with a label, {summary.rejected:,} rejected; "
        f"{summary.seconds:.1f} s, {summary.samples_per_second:,.0f} rows/s"
    ]
    if len(summary.files) > 1:
        lines += [f"  {f.name}: {f.samples:,} rows, {f.rejected:,} rejected" for f in summary.files]
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
        lines += [f"predictions written to {summary.predictions}"]
    return "\n".join(lines)


def _notes(summary: "EvaluationSummary") -> Iterator[str]:
    """Yield what the figures of all models mean."""
    if summary.missing_class is not None:
        yield f"- marks figures that compare clicks with other rows, and here {summary.missing_class}."
    if summary.weight is not None:
        total = f"{summary.weight:,.6g}"
        yield f"Rows count by their weights in all figures, {total} in all; intervals are over the draw of rows."
    yield "Intervals hold 95% over the chance of the rows, for these models; other seeds vary too."


def _model_lines(model: "ModelFigures", figures: "Figures") -> Iterator[str]:
    from dlrm_adahessian.metrics.binary import METRICS

    source = f", {model.source.checkpoint} of {model.source.run}" if model.source else ""
    by = f", calibrated by {model.source.calibration}" if model.source and model.source.calibration else ""
    yield f"{model.name}{source}{by}"
    for name, metric in METRICS.items():
        yield _with_interval(metric.title, figures.value(name), figures.interval(name))
        if isinstance(metric.of_base_rate, str):
            yield _with_interval(f"{metric.title} of the base rate", figures.metrics.of_base_rate(name), None)
    for name, title in (("normalized_entropy", "normalized entropy"), ("calibration", "calibration")):
        yield _with_interval(title, figures.value(name), figures.interval(name))
    yield _with_interval(
        "calibration error", model.expected_calibration_error, model.calibration_error_interval
    )


def _with_interval(title: str, value: float | None, ends: tuple[float, float] | None) -> str:
    interval = f"  [{ends[0]:.5f}, {ends[1]:.5f}]" if ends else ""
    return f"  {title:<28}{'-' if value is None else f'{value:.5f}':>10}{interval}"


def _difference_lines(difference: "ModelDifference") -> Iterator[str]:
    """Yield the differences; the log loss is the one that is judged, since its p value knows of all the models."""
    from dlrm_adahessian.metrics.binary import METRICS
    from dlrm_adahessian.statistics.comparison import judgement, p_words

    yield f"{difference.model} minus {difference.against}, with 95% interval"
    for name, metric in METRICS.items():
        found = difference.difference[name]
        if found is None:
            yield f"  {metric.title:<28}{'-':>10}"
            continue
        low, high = found.ci95
        judged = ""
        if name == "logloss" and difference.p_adjusted is not None:
            p = difference.p_adjusted
            judged = f"  p {p_words(p)}: {judgement(found.estimate, p)}"
        yield f"  {metric.title:<28}{found.estimate:>+10.5f}  [{low:+.5f}, {high:+.5f}]{judged}"


def _slicing_lines(slicing: "SlicingFigures") -> Iterator[str]:
    """Yield the figures of a slicing: of the first model, and the differences of the log loss to it."""
    from dlrm_adahessian.statistics.comparison import p_words

    yield slicing.title
    yield f"{'':<44}{'rows':>12}{'click rate':>12}{'AUC':>10}{'NE':>10}  [95% interval]"
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
        yield f"{slicing.name}: log loss of {other} minus the first, p adjusted over these slices"
        for entry in slicing.slices:
            found = entry.differences[place]
            if found.logloss is not None and found.p_adjusted is not None:
                low, high = found.logloss.ci95
                yield (
                    f"  {entry.label:<42}{found.logloss.estimate:>+12.5f}  [{low:+.5f}, {high:+.5f}]"
                    f"  p {p_words(found.p_adjusted)}"
                )
