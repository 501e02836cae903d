"""Open datasets by name: from the cache, or prepared and added to the cache.

A raw dataset consists of its schema, a file in presets/schemas, and its name in config.py.
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
    """Return the prepared data of a dataset.

    Args:
        dataset: name of the dataset.
        path: raw data, or a folder of prepared data, which is used unchanged; None for the default folder. Generated
            datasets ignore it.
        cfg: settings of the preparation.
        rows: largest number of samples; None for all.
        bad_rows: handling of bad lines.
        schema: schema file that replaces the dataset's own; generated data has its columns too.
        extends: preprocessing of earlier data to continue from.

    Returns:
        The data. Raises `DataError` if all training labels are equal.

    Raises:
        UsageError: the data cannot extend the earlier preprocessing.
    """
    if dataset in GENERATED:
        if extends is not None:
            raise UsageError(
                "Cannot continue a run on generated data, which is the same every time. Pass new data with --dataset and "
                "--data-path."
            )
        return prepare_synthetic(cfg, rows=rows, schema=schema)
    if path is not None and is_prepared(path):
        data = _open_folder(Path(path), rows)
        if extends is not None and data.manifest["key"].get("extends") != extends.fingerprint:
            raise UsageError(
                f"The vocabulary of the prepared data in {path} does not extend that of the earlier run. Pass the raw data."
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
    """Raise `DataError` if all labels (N,) of the training part are equal."""
    clicks = int(np.count_nonzero(labels))
    if clicks in (0, len(labels)):
        raise DataError(
            f"The training part must contain both labels, but {clicks} of its {len(labels)} samples are clicks. Provide "
            "more data."
        )


def _open_folder(folder: Path, rows: int | None) -> PreparedData:
    """Open prepared data in any folder, without the cache."""
    try:
        data = open_prepared(folder)
    except DamagedFolderError as error:
        raise DataError(f"{error}. Prepare the data again.") from error
    if rows is not None and rows != len(data.labels):
        raise UsageError(
            f"--rows {rows} applies to raw data only, but {folder} contains {len(data.labels)} prepared samples. Leave "
            "out --rows, or prepare the raw data with it."
        )
    return data
