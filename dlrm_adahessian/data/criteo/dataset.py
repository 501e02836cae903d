"""Raw Criteo text to prepared rows, identified by the content of the text."""

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from dlrm_adahessian.data.config import BadRows, DataConfig
from dlrm_adahessian.data.criteo.bad_lines import BadLines
from dlrm_adahessian.data.criteo.columns import CRITEO, CriteoBlock
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.prepared.folder import FORMAT, PreparedData, adopt, find_or_make, make, turn_at
from dlrm_adahessian.data.prepared.writer import StageBar, write_prepared
from dlrm_adahessian.data.split import MIN_ROWS
from dlrm_adahessian.data.text.sources import Source, input_identity, is_pipe, open_sources
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.runs.sealed import fingerprint

REJECTS = "rejects.tsv"

_DATASET = "criteo"
_BLOCK_BYTES = 1 << 20  # more is no faster, and the process would keep 40 MiB more

logger = logging.getLogger(__name__)


def prepare_criteo(path: str, cfg: DataConfig, *, rows: int | None, bad_rows: BadRows) -> PreparedData:
    """Return the prepared rows of raw text; prepare them when the cache lacks them.

    Text from a pipe is always read, since only then is known what it is.

    Args:
        path: a file, a folder, or `-`.
        cfg: where the cache is, and how the vocabulary is cut.
        rows: use the first good rows only.
        bad_rows: refuse the text for a bad line with a `DataError`, or put the line aside in rejects.tsv.

    Returns:
        The rows.
    """
    recipe = {"format": FORMAT, "min_count": cfg.min_count, "rows": rows, "bad_rows": bad_rows}
    reading = _Reading(path, rows, cfg.min_count, quarantine=bad_rows == "quarantine")
    if is_pipe(path):
        return _from_pipe(reading, recipe, cfg.cache_dir)
    identity = input_identity(path, cfg.cache_dir)

    def fill(folder: Path) -> dict[str, Any]:
        found = reading.fill(folder)
        if input_identity(path, cfg.cache_dir) != identity:
            raise DataError(f"{path} must not change while it is read, and did; prepare it again")
        return found

    return find_or_make(cfg.cache_dir, _DATASET, {**recipe, "input": identity}, fill)


def _from_pipe(reading: "_Reading", recipe: dict[str, Any], cache_dir: Path) -> PreparedData:
    """Prepare under a name of its own, and then under that of the content."""

    def fill(folder: Path) -> dict[str, Any]:
        found = reading.fill(folder)
        key = {**recipe, "input": reading.identity()}
        return {**found, "key": key, "fingerprint": fingerprint(key)}

    folder = cache_dir / f"{_DATASET}-pipe"
    with turn_at(folder):
        return adopt(make(folder, fill), cache_dir, _DATASET)


class _Reading:
    """One pass over raw text."""

    def __init__(self, path: str, rows: int | None, min_count: int, *, quarantine: bool) -> None:
        self._path = path
        self._rows = rows
        self._min_count = min_count
        self._quarantine = quarantine
        self._stages = StageBar()
        self._source: Source | None = None

    def fill(self, folder: Path) -> dict[str, Any]:
        """Write the rows into an empty folder; return what the manifest says of them."""
        bad_lines = BadLines(folder / REJECTS if self._quarantine else None)
        with closing(bad_lines), self._stages as stages:
            blocks = self._blocks(bad_lines)
            found = write_prepared(blocks, folder, CRITEO, min_count=self._min_count, advance=stages.advance)
        if bad_lines.count:
            logger.warning("%s", bad_lines.told(found["rows"]))
        return {**found, "rejected": bad_lines.count}

    def identity(self) -> dict[str, Any]:
        """Identify what has come out of a pipe."""
        source = self._source
        return {"bytes": source.consumed(), "xxh3_128": source.digest()} if source else {}

    def _blocks(self, bad_lines: BadLines) -> Iterator[CriteoBlock]:
        """Yield the good rows; a `DataError` where bad lines leave too few of them to go on."""
        left = self._rows
        good = 0
        for source in open_sources(self._path):
            self._source = source
            self._stages.total_bytes = source.total
            for block in read_rows(source, bad_lines, block_bytes=_BLOCK_BYTES, limit=left):
                left = None if left is None else left - len(block)
                good += len(block)
                self._stages.bytes_read = source.consumed()
                yield block
            if left == 0:
                break
        if bad_lines.count and good < MIN_ROWS:
            raise DataError(
                f"{MIN_ROWS} good rows at least are needed, found {good}: {bad_lines.told(good)}; repair the lines"
            )
