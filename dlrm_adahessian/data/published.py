"""Schemas by the name of a published data set. Imports no torch."""

from pathlib import Path

from dlrm_adahessian.data.config import GENERATED, DatasetName
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.schema import Schema, from_dict, read_schema
from dlrm_adahessian.presets import read_preset


def schema_of(dataset: DatasetName, file: Path | None) -> Schema:
    """Return the schema of the rows.

    Args:
        dataset: name of the dataset, which counts where there is no file.
        file: of `--schema`.

    Returns:
        The schema.
    """
    if file is not None:
        return read_schema(file)
    if dataset in ("criteo", *GENERATED):
        return CRITEO
    values = read_preset("schemas", dataset)
    columns = CRITEO.asdict() if values["format"] == "criteo" else {}
    return from_dict({**columns, **values})
