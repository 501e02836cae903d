"""Find the schema of a dataset by its name. Imports no torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlrm_adahessian.data.config import GENERATED, DatasetName
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.schema import Schema, from_dict
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.presets import read_preset
from dlrm_adahessian.runtime.settings import merged, read_toml


def schema_of(dataset: DatasetName, file: Path | None) -> Schema:
    """Return the schema of a dataset or of a file.

    Args:
        dataset: name of the dataset, used if there is no file.
        file: value of `--schema`.

    Returns:
        The schema.

    Raises:
        UsageError: a key is unknown or missing, or a value breaks a rule; the message names the file.
    """
    if file is not None:
        values = read_toml(file)
        try:
            return _with_columns(values)
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from error
    if dataset in ("criteo", *GENERATED):
        return CRITEO
    return _with_columns(read_preset("schemas", dataset))


def _with_columns(values: Mapping[str, Any]) -> Schema:
    """Validate a schema. One with format criteo gets Criteo's columns, and may not define others."""
    if values.get("format") != "criteo":
        return from_dict(values)
    schema = from_dict(merged(CRITEO.asdict(), values))
    if replace(schema, split=CRITEO.split, label=replace(schema.label, negative_rate=1.0)) != CRITEO:
        raise UsageError(
            "A schema with the format criteo cannot define columns. Remove everything except [split] and negative_rate "
            "of [label]."
        )
    return schema
