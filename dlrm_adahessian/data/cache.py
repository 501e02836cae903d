"""Prepared rows on disk, found again by what they were made from.

A cache folder is sealed (storage.py): it is complete or absent, and a changed byte is noticed before training. One
process prepares, others that want the same wait for it.
"""

import logging
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xxhash
from tqdm import tqdm

from dlrm_adahessian.data.config import DataConfig
from dlrm_adahessian.data.prepare import Split, split_rows, write_prepared
from dlrm_adahessian.data.schema import RowBlock
from dlrm_adahessian.data.sources import STDIN, open_sources, source_files
from dlrm_adahessian.data.synthetic import row_blocks
from dlrm_adahessian.data.tsv import BadLines, read_rows
from dlrm_adahessian.data.vocabulary import Vocabulary
from dlrm_adahessian.errors import DataError
from dlrm_adahessian.storage import (
    DamagedFolderError,
    exclusive_lock,
    file_digest,
    fingerprint,
    read_sealed,
    sealed_folder,
)

logger = logging.getLogger(__name__)

FORMAT = 1
DEFAULT_SYNTHETIC_ROWS = 1_000_000
REJECTS = "rejects.tsv"
_WHOLE_DIGEST = 64 << 20  # bytes up to which a source is identified by all of its content
_EDGE = 1 << 20  # bytes at each end that identify a larger one, with its size and time of change


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Rows ready to train on, mapped read-only.

    Attributes:
        folder: where they lie.
        fingerprint: of what they were made from.
        labels: (N,) int8, 0 or 1.
        dense: (N, 13) float32.
        ids: (N, 26) int32, rows of the tables.
        truth: (N,) float32 true click probability of generated rows, else None.
        split: the parts.
        vocabulary: tokens to table rows.
        rejected: bad lines set aside.
    """

    folder: Path
    fingerprint: str
    labels: npt.NDArray[np.int8]
    dense: npt.NDArray[np.float32]
    ids: npt.NDArray[np.int32]
    truth: npt.NDArray[np.float32] | None
    split: Split
    vocabulary: Vocabulary
    rejected: int


def open_prepared(folder: Path) -> PreparedData:
    """Verify and map a cache folder.

    Args:
        folder: what `prepare_criteo` or `prepare_synthetic` wrote.

    Returns:
        The rows.

    Raises:
        DamagedFolderError: it is not what was written.
    """
    manifest = read_sealed(folder)
    if manifest.get("format") != FORMAT:
        raise DamagedFolderError(
            f"{folder} has format {manifest.get('format')!r}, this version writes {FORMAT}"
        )
    mapped = partial(np.load, mmap_mode="r", allow_pickle=False)
    has_truth = "truth.npy" in manifest["files"]
    return PreparedData(
        folder=folder,
        fingerprint=manifest["fingerprint"],
        labels=mapped(folder / "labels.npy"),
        dense=mapped(folder / "dense.npy"),
        ids=mapped(folder / "ids.npy"),
        truth=mapped(folder / "truth.npy") if has_truth else None,
        split=split_rows(manifest["rows"]),
        vocabulary=Vocabulary.load(folder),
        rejected=manifest["rejected"],
    )


def prepare_criteo(
    path: str, cfg: DataConfig, *, rows: int | None, bad_rows: Literal["strict", "quarantine"]
) -> PreparedData:
    """Return the prepared rows of `path`; prepare them when the cache lacks them.

    Args:
        path: as `--data-path`.
        cfg: where the cache is, and how the vocabulary is cut.
        rows: use the first rows only.
        bad_rows: what happens to bad lines.

    Returns:
        The rows.
    """
    key: dict[str, Any] = {"format": FORMAT, "min_count": cfg.min_count, "rows": rows, "bad_rows": bad_rows}
    total = sum(file.stat().st_size for file in source_files(path)) or None
    made = partial(_criteo_blocks, path, rows, bad_rows, total)
    if path == STDIN:  # its content is known when it has been read; nothing to find again
        key["source"] = f"standard input {xxhash.xxh3_64_hexdigest(np.random.default_rng().bytes(16))}"
        logger.info("standard input is prepared anew each time; name a file to reuse the cache")
    else:
        key["source"] = [_identity(file) for file in source_files(path)]
    return _prepared("criteo", key, cfg, made)


def prepare_synthetic(cfg: DataConfig, *, rows: int | None) -> PreparedData:
    """Return generated rows; generate them when the cache lacks them."""
    count = rows or DEFAULT_SYNTHETIC_ROWS
    key = {"format": FORMAT, "min_count": cfg.min_count, "rows": count, "synthetic": asdict(cfg.synthetic)}

    @contextmanager
    def made(folder: Path) -> Generator[tuple[Iterator[RowBlock], Callable[[], int]]]:
        del folder
        yield row_blocks(cfg.synthetic, count), lambda: 0

    return _prepared("synthetic", key, cfg, made)


def _prepared(
    dataset: str, key: dict[str, Any], cfg: DataConfig, made: Callable[[Path], Any]
) -> PreparedData:
    name = fingerprint(key)
    final = cfg.cache_dir / f"{dataset}-{name}"
    with exclusive_lock(cfg.cache_dir / f"{dataset}-{name}.lock", wait=True):
        if final.exists():
            try:
                return open_prepared(final)
            except (DamagedFolderError, KeyError, ValueError) as error:
                logger.warning("prepared rows are damaged and made anew: %s", error)
        logger.info("preparing %s rows in %s", dataset, final)
        meta: dict[str, Any] = {"format": FORMAT, "fingerprint": name, "made_from": key}
        with sealed_folder(final, meta) as folder, made(folder) as (blocks, rejected), _stage_bar() as bar:

            def advance(stage: str, rows: int) -> None:
                bar.set_description(stage, refresh=False)
                bar.update(rows)

            counts = write_prepared(blocks, folder, min_count=cfg.min_count, advance=advance)
            meta.update(counts, rejected=rejected())
        logger.info(
            "rows read %d, kept %d, rejected %d",
            meta["rows"] + meta["rejected"],
            meta["rows"],
            meta["rejected"],
        )
        return open_prepared(final)


def _stage_bar() -> Any:
    """Return a bar of the rows that all stages together have dealt with."""
    return tqdm(
        unit=" rows", unit_scale=True, desc="read", position=1, leave=False, disable=not sys.stderr.isatty()
    )


@contextmanager
def _criteo_blocks(
    path: str, rows: int | None, bad_rows: str, total: int | None, folder: Path
) -> Generator[tuple[Iterator[RowBlock], Callable[[], int]]]:
    bad_lines = BadLines(folder / REJECTS if bad_rows == "quarantine" else None)

    def blocks() -> Iterator[RowBlock]:
        left = rows
        with tqdm(
            total=total, unit="B", unit_scale=True, desc="prepare", disable=not sys.stderr.isatty()
        ) as bar:
            before = 0
            for source in open_sources(path):
                for block in read_rows(source, bad_lines):
                    bar.update(before + source.consumed() - bar.n)
                    taken = block if left is None or len(block) <= left else _first(block, left)
                    left = None if left is None else left - len(taken)
                    if len(taken):
                        yield taken
                    if left == 0:
                        return
                before += source.consumed()

    try:
        yield blocks(), lambda: bad_lines.count
    finally:
        bad_lines.close()


def _first(block: RowBlock, rows: int) -> RowBlock:
    return RowBlock(
        labels=block.labels[:rows],
        integers=block.integers[:rows],
        tokens=block.tokens[:rows],
        missing=block.missing[:rows],
    )


def _identity(file: Path) -> dict[str, object]:
    """Identify a file by its content, a large one by its ends, size and time of change."""
    stat = file.stat()
    if stat.st_size <= _WHOLE_DIGEST:
        return {"bytes": stat.st_size, "xxh3_128": file_digest(file)}
    with file.open("rb") as stream:
        head = stream.read(_EDGE)
        stream.seek(-_EDGE, 2)
        ends = xxhash.xxh3_128_hexdigest(head + stream.read(_EDGE))
    return {"bytes": stat.st_size, "ends": ends, "changed_ns": stat.st_mtime_ns}


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
        path: its raw rows, None for the default place; unused by generated ones.
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
    data = prepare_criteo(path or "data/raw", cfg, rows=rows, bad_rows=bad_rows)
    clicks = int(np.count_nonzero(data.labels[data.split.train.start : data.split.train.stop]))
    if clicks in (0, len(data.split.train)):
        raise DataError(
            f"the training part needs both labels, found {clicks} clicks in {len(data.split.train)} rows; name other rows"
        )
    return data
