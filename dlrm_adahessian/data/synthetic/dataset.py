"""Prepare generated data in a cache folder named by the settings of the generator."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.folder import FORMAT, PreparedData, find_or_make
from dlrm_adahessian.data.prepared.room import require_room_for_rows
from dlrm_adahessian.data.prepared.writer import StageBar, write_prepared
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.rows import RowBlock
from dlrm_adahessian.data.schema import Schema
from dlrm_adahessian.data.synthetic import any_schema
from dlrm_adahessian.data.synthetic.generator import GENERATOR, row_blocks
from dlrm_adahessian.errors import UsageError

DEFAULT_ROWS = 1_000_000

_DATASET = "synthetic"


def prepare_synthetic(cfg: DataConfig, *, rows: int | None, schema: Path | None = None) -> PreparedData:
    """Return generated data. Generate it if it is not in the cache.

    Args:
        cfg: settings of the preparation and of the generator.
        rows: number of samples; None for a million.
        schema: schema file; None for Criteo's columns.

    Returns:
        The data. Raises `UsageError` if the schema splits by time or files, which generated data does not have.
    """
    count = rows or DEFAULT_ROWS
    key = {
        "format": FORMAT,
        "min_count": cfg.min_count,
        "rows": count,
        "synthetic": asdict(cfg.synthetic),
        "generator": GENERATOR,
    }
    columns = CRITEO
    if schema is not None:
        columns = _schema_by_order(schema)
        key |= {"generator": any_schema.GENERATOR, "schema": columns.asdict()}
        if columns.hashes_texts:
            key["texts"] = True  # earlier versions did not store texts

    def blocks() -> Iterator[RowBlock]:
        if schema is None:
            return row_blocks(cfg.synthetic, count)
        return any_schema.row_blocks(columns, cfg.synthetic, count)

    def fill(folder: Path) -> dict[str, Any]:
        require_room_for_rows(count, columns, cfg.cache_dir)
        with StageBar(count) as stages:
            found = write_prepared(blocks(), folder, columns, min_count=cfg.min_count, advance=stages.advance)
        return {**found, "rejected": 0}

    return find_or_make(cfg.cache_dir, _DATASET, key, fill)


def _schema_by_order(path: Path) -> Schema:
    schema = schema_of("synthetic", path)
    if schema.split.by != "order":
        raise UsageError(
            f"{path}: generated data cannot be split by {schema.split.by}. Remove [split], or split by order."
        )
    return schema
