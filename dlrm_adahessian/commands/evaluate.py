"""`evaluate`: rows to predictions and metrics."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from dlrm_adahessian.commands.output import say_figures


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvaluateConfig:
    """Score rows with a trained run and write the predictions to a parquet file."""

    run: Path
    """Run directory of a training job."""
    data_path: str
    """Raw rows, with labels or without (a file, .gz, dac.tar.gz, a folder, -), or a folder of prepared rows."""
    out: Path
    """Parquet file to write: row, label (null where there is none), probability."""
    part: Literal["all", "train", "val", "test"] = "all"
    """Part of prepared rows."""
    best: bool = False
    """Score with the checkpoint of the lowest validation log loss, not the last; runs with patience always do."""
    bad_rows: Literal["strict", "quarantine"] = "strict"
    """Stop at the first bad line, or set bad lines aside in OUT.rejects.tsv and count them."""
    json: bool = False
    """Print one JSON document instead of text."""


def evaluate(arguments: Sequence[str]) -> int:
    """Score rows with a trained run."""
    args = tyro.cli(EvaluateConfig, args=arguments, prog="evaluate")
    from dlrm_adahessian.evaluate import evaluate as score

    found = score(args.run, args.data_path, args.out, part=args.part, best=args.best, bad_rows=args.bad_rows)
    say_figures(found, as_json=args.json)
    return 0
