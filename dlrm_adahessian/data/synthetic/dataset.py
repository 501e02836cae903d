"""Generated rows to prepared ones, identified by the settings of the generator."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.folder import FORMAT, PreparedData, find_or_make
from dlrm_adahessian.data.prepared.writer import StageBar, write_prepared
from dlrm_adahessian.data.synthetic.generator import GENERATOR, row_blocks

DEFAULT_ROWS = 1_000_000

_DATASET = "synthetic"


def prepare_synthetic(cfg: DataConfig, *, rows: int | None) -> PreparedData:
    """Return generated rows; generate them when the cache lacks them."""
    count = rows or DEFAULT_ROWS
    key = {
        "format": FORMAT,
        "min_count": cfg.min_count,
        "rows": count,
        "synthetic": asdict(cfg.synthetic),
        "generator": GENERATOR,
    }

    def fill(folder: Path) -> dict[str, Any]:
        with StageBar(count) as stages:
            blocks = row_blocks(cfg.synthetic, count)
            found = write_prepared(blocks, folder, CRITEO, min_count=cfg.min_count, advance=stages.advance)
        return {**found, "rejected": 0}

    return find_or_make(cfg.cache_dir, _DATASET, key, fill)
