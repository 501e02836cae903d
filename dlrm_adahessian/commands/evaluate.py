"""`evaluate`: rows to predictions, figures, slices and a report."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from dlrm_adahessian.data.config import BadRows
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say

if TYPE_CHECKING:
    from dlrm_adahessian.evaluation.job import Evaluation


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
    """Score lines of the standard input as they come, and print a probability a line."""
    out: Path | None = None
    """Parquet file to write: row, label (null where there is none), probability (of further models probability_2, ...)."""
    report: Path | None = None
    """HTML file to write: figures, curves, calibration and slices, readable without a network."""
    against: tuple[str, ...] = ()
    """Parquet files of predictions of the same rows by other models."""
    slices: tuple[str, ...] = ()
    """Parts of the rows with figures of their own: file, day, calibration, C1 ... C26 (tokens), C1.band ... (how frequent
    they are), I1 ... I13 (magnitudes)."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Part of prepared rows."""
    best: bool = False
    """Score with the checkpoint of the lowest validation log loss, not the last; runs with patience always do."""
    bad_rows: BadRows = "strict"
    """Stop at the first bad line, or set bad lines aside in OUT.rejects.tsv and count them."""
    json: bool = False
    """Print one JSON document instead of text."""


def evaluate(arguments: Sequence[str]) -> int:
    """Score rows with trained models, or judge predictions of before."""
    args = tyro.cli(EvaluateConfig, args=arguments, prog="python -m dlrm_adahessian evaluate")
    if args.stdin:
        _stream(args)
        return 0
    if not args.data_path:
        raise UsageError("evaluate needs rows: name them with --data-path, or give lines to --stdin")
    if args.report is not None and args.report.suffix != ".html":
        raise UsageError(f"--report is an HTML file, got {args.report}; end its name with .html")
    from dlrm_adahessian.evaluation.job import evaluate as evaluated
    from dlrm_adahessian.evaluation.request import Request

    request = Request(
        runs=args.run,
        data=args.data_path,
        out=args.out,
        report=args.report,
        against=args.against,
        slices=args.slices,
        part=args.part,
        best=args.best,
        bad_rows=args.bad_rows,
    )
    found = evaluated(request)
    if args.report is not None:
        _write_report(args.report, found)
    if args.json:
        say(json.dumps(found.summary, allow_nan=False))
        return 0
    from dlrm_adahessian.commands.text_tables import evaluation_table

    say(evaluation_table(found.summary))
    if args.report is not None:
        say(f"report written to {args.report}")
    return 0


def _write_report(path: Path, found: "Evaluation") -> None:
    if not found.summary["labelled"]:
        raise DataError(
            f"a report needs labels, and none of {found.summary['rows']:,} rows has one; leave out --report"
        )
    from dlrm_adahessian.report.evaluation import write_evaluation

    write_evaluation(path, found.summary, found.predictions.labelled)


def _stream(args: EvaluateConfig) -> None:
    """Score the standard input."""
    others = [
        name for name in ("data_path", "out", "report", "against", "slices", "json") if getattr(args, name)
    ]
    if others or len(args.run) != 1 or args.part != "all" or args.bad_rows != "strict":
        raise UsageError(
            "--stdin goes with one --run alone, since its output is a probability for each line; "
            "for files, figures and bad lines give the rows as --data-path -"
        )
    from dlrm_adahessian.evaluation.stream import score_lines

    with open(sys.stdin.fileno(), "rb", closefd=False) as lines:
        for probabilities in score_lines(args.run[0], lines, best=args.best):
            say("\n".join(map(str, probabilities)))  # as few digits as tell float32 numbers apart
            sys.stdout.flush()
