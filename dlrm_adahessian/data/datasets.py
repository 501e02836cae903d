"""Datasets by name: rows from the cache, or made and put there.

A dataset that is read is its schema, a file of presets/schemas, and a name in config.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.config import GENERATED, BadRows, DataConfig, DatasetName
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.raw import prepare_raw
from dlrm_adahessian.data.schema import SplitRule
from dlrm_adahessian.data.synthetic.dataset import prepare_synthetic
from dlrm_adahessian.data.text.sources import RAW, is_prepared
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runs.sealed import DamagedFolderError


def open_dataset(
    dataset: DatasetName,
    path: str | None,
    cfg: DataConfig,
    *,
    rows: int | None,
    bad_rows: BadRows,
    schema: Path | None = None,
    extends: Preprocessing | None = None,
) -> PreparedData:
    """Return the prepared rows of a dataset.

    Args:
        dataset: name of the dataset.
        path: its raw rows, or a folder of prepared ones, which are taken as they are; None for the default place; unused
            by generated rows.
        cfg: preparation.
        rows: how many at most.
        bad_rows: what happens to bad rows.
        schema: file of the schema, in place of the dataset's own; generated rows have its columns too.
        extends: what was learnt from earlier rows, to go on from.

    Returns:
        The rows; a `DataError` when the training part holds one class only.

    Raises:
        UsageError: the rows cannot extend what they are to.
    """
    if dataset in GENERATED:
        if extends is not None:
            raise UsageError(
                "generated rows are the same each time, and no model goes on from them; give rows with --dataset and "
                "--data-path"
            )
        return prepare_synthetic(cfg, rows=rows, schema=schema)
    if path is not None and is_prepared(path):
        data = _open_folder(Path(path), rows)
        if extends is not None and data.manifest["key"].get("extends") != extends.fingerprint:
            raise UsageError(
                f"{path} holds rows whose vocabulary extends that of another run or of none; give the raw rows"
            )
    else:
        name = dataset if schema is None else schema.stem
        columns = schema_of(dataset, schema)
        if cfg.test_files:
            split = SplitRule(by="files", train_files=cfg.train_files, test_files=cfg.test_files)
            columns = replace(columns, split=split)
        data = prepare_raw(
            name, columns, path or str(RAW), cfg, rows=rows, bad_rows=bad_rows, extends=extends
        )
    require_both_labels(data.labels[: data.split.train.stop])
    return data


def require_both_labels(labels: npt.NDArray[np.int8]) -> None:
    """Refuse, with a `DataError`, a training part whose labels (N,) are all the same."""
    clicks = int(np.count_nonzero(labels))
    if clicks in (0, len(labels)):
        raise DataError(
            f"the training part needs both labels, {clicks} of {len(labels)} are clicks; give more rows"
        )


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
