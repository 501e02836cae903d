# pyright: basic
"""Batch offline evaluation: score rows with a run's newest good checkpoint, stream the predictions to parquet."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from dlrm_adahessian.artifacts import RunDirectory
from dlrm_adahessian.config import from_dict
from dlrm_adahessian.data.loader import make_batch
from dlrm_adahessian.data.prepare import dense_features
from dlrm_adahessian.data.prepared import is_prepared, open_prepared
from dlrm_adahessian.data.schema import NO_LABEL
from dlrm_adahessian.data.sources import open_sources
from dlrm_adahessian.data.tsv import BadLines, read_rows
from dlrm_adahessian.data.vocabulary import Vocabulary
from dlrm_adahessian.device import find_device
from dlrm_adahessian.distributed.checkpoint import load_newest_good
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import CheckpointError, NoInputError, UsageError
from dlrm_adahessian.metrics import (
    binary_metrics,
    calibration_bins,
    expected_calibration_error,
)
from dlrm_adahessian.state import SCORING_BATCH, TrainState
from dlrm_adahessian.storage import DamagedFolderError, read_sealed, storage_errors

_SCHEMA = pa.schema([("row", pa.int64()), ("label", pa.int8()), ("probability", pa.float32())])
_BLOCK = 16 * SCORING_BATCH  # rows scored and written at once
_Rows = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]]


def evaluate(
    run: Path,
    data_path: str,
    out: Path,
    *,
    part: Literal["all", "train", "val", "test"] = "all",
    best: bool = False,
    bad_rows: Literal["strict", "quarantine"] = "strict",
) -> dict[str, Any]:
    """Score rows and write `row`, `label`, `probability`.

    Args:
        run: run directory of a training job.
        data_path: raw rows as `--data-path` of training, with labels or without, or a folder of prepared rows.
        out: the parquet file; bad lines go beside it, into OUT.rejects.tsv.
        part: of prepared rows.
        best: use the checkpoint of the best validation even where the run did not stop early.
        bad_rows: what happens to bad lines of raw rows.

    Returns:
        Rows, rejected rows, and over the labelled rows the metrics and calibration.

    Raises:
        UsageError: `part` was given for raw rows.
    """
    prepared = is_prepared(data_path)
    if part != "all" and not prepared:
        raise UsageError(
            f"--part names a part of prepared rows, and {data_path} holds raw ones; leave it out"
        )
    scored = 0
    labels: list[npt.NDArray[np.int8]] = []
    probabilities: list[npt.NDArray[np.float32]] = []
    with ExitStack() as stack:
        device = find_device("auto")
        stack.enter_context(init_process_group(device))
        scorer = _Scorer(run, device, best=best)
        bad_lines = BadLines(out.with_name(out.name + ".rejects.tsv") if bad_rows == "quarantine" else None)
        stack.callback(bad_lines.close)
        blocks = scorer.prepared(data_path, part) if prepared else scorer.raw(data_path, bad_lines)
        with storage_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            partial = out.with_name(f".{out.name}.tmp")
            stack.callback(partial.unlink, missing_ok=True)
            writer = stack.enter_context(pq.ParquetWriter(partial, _SCHEMA))
            bar = stack.enter_context(
                tqdm(desc="evaluate", unit=" rows", unit_scale=True, disable=not sys.stderr.isatty())
            )
            for block in regrouped(blocks, _BLOCK):
                probability = scorer.score(block)
                writer.write_table(_table(scored, block[0], probability))
                scored += len(probability)
                labels.append(block[0])
                probabilities.append(probability)
                bar.update(len(probability))
            writer.close()
            partial.replace(out)
    found = _metrics(np.concatenate(labels), np.concatenate(probabilities)) if labels else {"rows": 0}
    return {
        **found,
        "rejected": bad_lines.count,
        "checkpoint": scorer.checkpoint.path.name,
        "predictions": str(out),
    }


class _Scorer:
    """The model of a run, with the vocabulary that it was trained on."""

    def __init__(self, path: Path, device: torch.device, *, best: bool) -> None:
        run = RunDirectory(path)
        resolved = run.read_config()
        trained_on = resolved.pop("prepared", {})
        config = from_dict(resolved)
        folder = run.vocabulary
        try:
            manifest = read_sealed(folder)
            vocabulary = Vocabulary.load(folder)
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}; restore {folder} from a copy, or train again") from error
        self.rows_fingerprint = trained_on.get("fingerprint")
        if manifest.get("fingerprint") != self.rows_fingerprint:
            raise CheckpointError(
                f"{folder} belongs to other rows than this run was trained on; restore it from a copy"
            )
        self._encoder = vocabulary.encoder()
        self._state = TrainState(config, vocabulary.num_rows, device)
        checkpoints = run.best if config.patience or best else run.checkpoints
        found = load_newest_good(checkpoints, config.fingerprint(manifest["fingerprint"]))
        if found is None:
            raise NoInputError(
                f"{checkpoints} holds no checkpoint; train with --out {path} first"
                + (", and validate more than once, by --eval-every or --epochs" if best else "")
            )
        self._state.restore_(found)
        self.checkpoint = found

    def raw(self, path: str, bad_lines: BadLines) -> Iterator[_Rows]:
        """Read raw lines; tokens that training did not see share one row per feature."""
        for source in open_sources(path):
            for block in read_rows(source, bad_lines, labels="optional"):
                ids = self._encoder.encode(block.tokens, block.missing)
                yield block.labels, dense_features(block.integers), ids

    def prepared(self, folder: str, part: str) -> Iterator[_Rows]:
        """Read prepared rows, made with the same vocabulary."""
        try:
            data = open_prepared(Path(folder))
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}; prepare the rows again") from error
        if data.fingerprint != self.rows_fingerprint:
            raise UsageError(
                f"{folder} was prepared with another vocabulary than this run was trained on; name the raw rows instead"
            )
        rows = range(len(data.labels)) if part == "all" else getattr(data.split, part)
        for start in range(rows.start, rows.stop, _BLOCK):
            these = slice(start, min(start + _BLOCK, rows.stop))
            yield np.asarray(data.labels[these]), np.asarray(data.dense[these]), np.asarray(data.ids[these])

    def score(self, rows: _Rows) -> npt.NDArray[np.float32]:
        """Return the probabilities of a block."""
        labels, dense, ids = rows
        parts = (slice(start, start + SCORING_BATCH) for start in range(0, len(labels), SCORING_BATCH))
        unlabelled = np.zeros(SCORING_BATCH, np.int8)  # scoring reads no labels
        return self._state.score(
            make_batch(dense[part], ids[part], unlabelled[: len(ids[part])]) for part in parts
        )


def regrouped(blocks: Iterable[_Rows], size: int) -> Iterator[_Rows]:
    """Yield the same rows in blocks of `size`, the last smaller: a row's last bits depend on the batch it is scored in.

    Args:
        blocks: of any size.
        size: in rows, at least 1.

    Yields:
        The blocks.
    """
    held: list[_Rows] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += len(block[0])
        while count >= size:
            whole = _joined(held)
            yield _part(whole, slice(size))
            held, count = [_part(whole, slice(size, None))], count - size
    if count:
        yield _joined(held)


def _joined(blocks: Sequence[_Rows]) -> _Rows:
    labels, dense, ids = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return labels, dense, ids


def _part(rows: _Rows, part: slice) -> _Rows:
    labels, dense, ids = rows
    return labels[part], dense[part], ids[part]


def _table(first: int, labels: npt.NDArray[np.int8], probability: npt.NDArray[np.float32]) -> pa.Table:
    rows = np.arange(first, first + len(labels), dtype=np.int64)
    label = pa.array(labels, mask=labels == NO_LABEL)
    return pa.table([pa.array(rows), label, pa.array(probability)], schema=_SCHEMA)


def _metrics(labels: npt.NDArray[np.int8], probability: npt.NDArray[np.float32]) -> dict[str, Any]:
    labelled = labels != NO_LABEL
    found: dict[str, Any] = {"rows": len(labels), "labelled": int(labelled.sum())}
    if not labelled.any():
        return found
    labels, probability = labels[labelled], probability[labelled]
    bins = calibration_bins(labels, probability)
    return {
        **found,
        **{k: v for k, v in binary_metrics(labels, probability).asdict().items() if k != "rows"},
        "expected_calibration_error": expected_calibration_error(bins),
        "calibration_bins": [bin_._asdict() for bin_ in bins],
    }
