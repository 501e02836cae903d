"""Datasets by name: rows from the cache, or made and put there.

A dataset is a folder with a dataset.py, a name in config.py, and a line in one of the two tables here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from dlrm_adahessian.data.config import BadRows, DataConfig, DatasetName
from dlrm_adahessian.data.criteo.dataset import prepare_criteo
from dlrm_adahessian.data.prepared.folder import PreparedData, is_prepared, open_prepared
from dlrm_adahessian.data.synthetic.dataset import prepare_synthetic
from dlrm_adahessian.data.text.sources import RAW
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runs.sealed import DamagedFolderError


class Read(Protocol):
    """Prepares the raw rows of a path; of bad ones, does what it is told."""

    def __call__(self, path: str, cfg: DataConfig, *, rows: int | None, bad_rows: BadRows) -> PreparedData:
        """Return the rows; prepare them when the cache lacks them."""
        ...


class Generate(Protocol):
    """Makes rows up."""

    def __call__(self, cfg: DataConfig, *, rows: int | None) -> PreparedData:
        """Return the rows; generate them when the cache lacks them."""
        ...


READ: Mapping[DatasetName, Read] = {"criteo": prepare_criteo}
GENERATE: Mapping[DatasetName, Generate] = {"synthetic": prepare_synthetic}


def open_dataset(
    dataset: DatasetName,
    path: str | None,
    cfg: DataConfig,
    *,
    rows: int | None,
    bad_rows: BadRows,
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
    if dataset in GENERATE:
        return GENERATE[dataset](cfg, rows=rows)
    if path is not None and is_prepared(path):
        data = _open_folder(Path(path), rows)
    else:
        data = READ[dataset](path or str(RAW), cfg, rows=rows, bad_rows=bad_rows)
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
