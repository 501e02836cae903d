"""Implement `prepare`: convert raw data to prepared data."""

from collections.abc import Sequence
from pathlib import Path

from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.data.config import GENERATED, BadRows, DataConfig, DatasetName
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.text.sources import is_prepared, require_rows
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.sealed import require_writable
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say_figures


@settings
class PrepareConfig:
    """Convert raw data to prepared data, which training reads."""

    dataset: DatasetName = "criteo"
    """Published data set (read from --data-path) or synthetic data (docs/own-data.md)."""
    schema: Path | None = None
    """TOML file describing the columns of your own data; replaces --dataset (docs/own-data.md)."""
    data_path: str | None = None
    """Data file (plain or compressed), folder of files, or - for standard input."""
    rows: int | None = None
    """Use only the first N samples; for synthetic data, generate N."""
    bad_rows: BadRows = "strict"
    """strict: stop at the first bad line; quarantine: write bad lines to rejects.tsv."""
    json: bool = False
    """Print one JSON document instead of text."""
    data: DataConfig = DataConfig()


def prepare(arguments: Sequence[str]) -> int:
    """Convert raw data to prepared data, which training reads."""
    args = parsed(PrepareConfig, arguments, prog="python -m dlrm_adahessian prepare")
    if args.data_path is not None and is_prepared(args.data_path):
        raise UsageError(
            f"prepare requires raw data, but {args.data_path} has prepared data. Pass it to train or evaluate instead."
        )
    if args.dataset not in GENERATED:
        require_rows(args.data_path, "prepare", schema_of(args.dataset, args.schema).format)
    require_writable(args.data.cache_dir, "--data.cache-dir")
    from dlrm_adahessian.data.datasets import open_dataset

    data = open_dataset(
        args.dataset, args.data_path, args.data, rows=args.rows, bad_rows=args.bad_rows, schema=args.schema
    )
    kept = len(data.labels)
    found = {
        "folder": str(data.folder),
        "rows_read": kept + data.rejected,
        "rows_kept": kept,
        "rows_rejected": data.rejected,
        "train": len(data.split.train),
        "val": len(data.split.val),
        "test": len(data.split.test),
        "table_rows": sum(data.preprocessing.num_rows),
    }
    say_figures(found, as_json=args.json)
    return 0
