"""Datasets by name: rows from the cache, or made and put there."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.dataset import prepare_criteo
from dlrm_adahessian.data.prepared.folder import (
    FORMAT,
    PreparedData,
    find_or_make,
    is_prepared,
    open_prepared,
)
from dlrm_adahessian.data.prepared.progress import Progress
from dlrm_adahessian.data.prepared.writer import write_prepared
from dlrm_adahessian.data.synthetic.generator import GENERATOR, row_blocks
from dlrm_adahessian.data.text.sources import RAW
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runs.sealed import DamagedFolderError

DEFAULT_SYNTHETIC_ROWS = 1_000_000


def open_dataset(
    dataset: Literal["criteo", "synthetic"],
    path: str | None,
    cfg: DataConfig,
    *,
    rows: int | None,
    bad_rows: Literal["strict", "quarantine"],
) -> PreparedData:
    """Return the prepared rows of a dataset.

    Args:
        dataset: name of the dataset.
        path: its raw rows, or a folder of prepared ones, which are taken as they are; None for the default place; unused
            by generated rows.
        cfg: preparation.
        rows: how many at most.
        bad_rows: what happens to bad lines.

    Returns:
        The rows.

    Raises:
        DataError: the training part holds one class only.
    """
    if dataset == "synthetic":
        return prepare_synthetic(cfg, rows=rows)
    if path is not None and is_prepared(path):
        data = _open_folder(Path(path), rows)
    else:
        data = prepare_criteo(path or str(RAW), cfg, rows=rows, bad_rows=bad_rows)
    train = data.split.train
    clicks = int(np.count_nonzero(data.labels[: train.stop]))
    if clicks in (0, len(train)):
        raise DataError(
            f"the training part needs both labels, {clicks} of {len(train)} are clicks; give more rows"
        )
    return data


def _open_folder(folder: Path, rows: int | None) -> PreparedData:
    """Open rows that were prepared before, the cache of this run aside."""
    try:
        data = open_prepared(folder)
    except DamagedFolderError as error:
        raise DataError(f"{error}; prepare the rows again") from error
    if rows is not None and rows != len(data.labels):
        raise UsageError(
            f"--rows cuts raw rows, and {folder} holds {len(data.labels)} prepared ones, got {rows}; leave --rows out, or "
            "prepare the raw rows with it"
        )
    return data


def prepare_synthetic(cfg: DataConfig, *, rows: int | None) -> PreparedData:
    """Return generated rows; generate them when the cache lacks them."""
    count = rows or DEFAULT_SYNTHETIC_ROWS
    key = {
        "format": FORMAT,
        "min_count": cfg.min_count,
        "rows": count,
        "synthetic": asdict(cfg.synthetic),
        "generator": GENERATOR,
    }

    def fill(folder: Path) -> dict[str, Any]:
        with Progress(count) as progress:
            blocks = row_blocks(cfg.synthetic, count)
            found = write_prepared(blocks, folder, min_count=cfg.min_count, advance=progress.advance)
        return {**found, "rejected": 0}

    return find_or_make(cfg.cache_dir, "synthetic", key, fill)
