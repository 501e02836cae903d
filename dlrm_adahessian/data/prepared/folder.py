"""Prepared rows on disk, found again by what they were made from.

A folder of the cache is sealed (runs/sealed.py): it is complete or absent, and a changed byte is noticed before
training. One process makes it, others that want the same wait and use what it made.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.prepared.arrays import read_array
from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.rows import Bags, Features
from dlrm_adahessian.data.sampling import population_weights
from dlrm_adahessian.data.split import Split
from dlrm_adahessian.errors import LockedError, StorageError
from dlrm_adahessian.runs.files import remove_leftovers
from dlrm_adahessian.runs.sealed import (
    MANIFEST,
    DamagedFolderError,
    exclusive_lock,
    fingerprint,
    read_json,
    read_sealed,
    sealed_folder,
    storage_errors,
)

FORMAT = 2
"""Version of the files; another one is made anew."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Rows ready to train on, mapped read-only.

    Attributes:
        folder: where they lie.
        fingerprint: of what they were made from.
        labels: (N,) int8, 0 or 1.
        features: what a model reads of the N rows.
        truth: (N,) float32 true click probability of generated rows, else None.
        weights: (N,) float32, finite and at least 0, as how many samples each counts in training; None for 1 each.
        split: the parts.
        preprocessing: made the features.
        rejected: bad lines put aside.
        manifest: all that the folder says of itself.
    """

    folder: Path
    fingerprint: str
    labels: npt.NDArray[np.int8]
    features: Features
    truth: npt.NDArray[np.float32] | None
    split: Split
    preprocessing: Preprocessing
    rejected: int
    manifest: Mapping[str, Any]
    weights: npt.NDArray[np.float32] | None = None

    @property
    def values_per_bag(self) -> tuple[float, ...]:
        """Mean number of values that a row of the training part has of each of the F categorical features."""
        train = self.split.train
        of_bags = (bags.offsets[train.stop] - bags.offsets[train.start] for bags in self.features.bags)
        return (1.0,) * self.features.ids.shape[1] + tuple(float(values) / len(train) for values in of_bags)

    def population_weights(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Return as how many samples of the population some rows count, (rows,) float32; None for 1 each."""
        weights = None if self.weights is None else np.asarray(self.weights[rows])
        return population_weights(self.preprocessing.schema.label, np.asarray(self.labels[rows]), weights)


def open_prepared(folder: Path) -> PreparedData:
    """Verify every byte of prepared rows and map them.

    Args:
        folder: a folder of the cache.

    Returns:
        The rows; `DamagedFolderError` when the folder is not what was written, or of another format.
    """
    manifest = read_sealed(folder)
    _check(folder, manifest)
    with storage_errors(folder):
        return _map(folder, manifest)


def map_prepared(folder: Path) -> PreparedData:
    """Map prepared rows that another process has verified; raises as `open_prepared`."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise DamagedFolderError(f"{folder / MANIFEST} must hold a JSON object")
    _check(folder, manifest)
    with storage_errors(folder):
        return _map(folder, manifest)


def _check(folder: Path, manifest: Mapping[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise DamagedFolderError(f"{folder} must have format {FORMAT}, it says {manifest.get('format')!r}")
    if manifest.get("digest") != _digest(manifest):
        raise DamagedFolderError(f"{folder / MANIFEST} changed since it was written")


def find_or_make(
    cache_dir: Path, dataset: str, key: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]]
) -> PreparedData:
    """Return the prepared rows of a key; make them when the cache lacks them or they are damaged.

    Args:
        cache_dir: holds a folder per key.
        dataset: begins the folder's name.
        key: all that determines the rows, as JSON values.
        fill: writes the rows into an empty folder and returns what the manifest says of them, among it the
            number of `rows` and of `rejected` lines.

    Returns:
        The rows.
    """
    name = fingerprint(key)
    folder = cache_dir / f"{dataset}-{name}"

    def fill_and_name(into: Path) -> dict[str, Any]:
        return {**fill(into), "fingerprint": name, "key": key}

    with turn_at(folder):
        return _reusable(folder) or make(folder, fill_and_name)


@contextmanager
def turn_at(folder: Path) -> Generator[None]:
    """Wait for the lock of a folder of the cache, and say so.

    Args:
        folder: need not exist.

    Yields:
        Nothing.
    """
    lock = folder.with_name(f"{folder.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(lock, wait=False))
        except LockedError:
            logger.info("waiting for another process that prepares %s", folder)
            stack.enter_context(exclusive_lock(lock, wait=True))
        yield


def make(folder: Path, fill: Callable[[Path], Mapping[str, Any]]) -> PreparedData:
    """Fill and seal a folder whose lock is held; `fill` tells `fingerprint` and `key` too."""
    with storage_errors(folder):
        remove_leftovers(folder.parent, of=folder.name)
    logger.info("preparing rows in %s", folder)
    meta: dict[str, Any] = {"format": FORMAT}
    with sealed_folder(folder, meta) as temporary:
        meta.update(fill(temporary))
        meta["digest"] = _digest(meta)
    # Each byte was read and hashed when the folder was sealed: not again.
    with storage_errors(folder):
        return _map(folder, json.loads((folder / MANIFEST).read_bytes()))


def adopt(made: PreparedData, cache_dir: Path, dataset: str) -> PreparedData:
    """Move rows whose fingerprint became known with them to its folder, unless that has the same."""
    folder = cache_dir / f"{dataset}-{made.fingerprint}"
    with turn_at(folder), storage_errors(folder):
        if found := _reusable(folder):
            shutil.rmtree(made.folder)
            return found
        shutil.rmtree(folder, ignore_errors=True)
        made.folder.rename(folder)
        return _map(folder, made.manifest)


def _reusable(folder: Path) -> PreparedData | None:
    if not folder.exists():
        return None
    # Prepared anew, they could not be put in the place of another user's.
    if not os.access(folder, os.R_OK | os.X_OK):
        raise StorageError(
            f"prepared rows are in {folder}, which this user may not read; ask its owner for that, or name another folder "
            "with --data.cache-dir"
        )
    try:
        found = open_prepared(folder)
        if not folder.name.endswith(f"-{found.fingerprint}"):
            raise DamagedFolderError(f"{folder} holds rows {found.fingerprint}, not those of its name")
        return found
    except DamagedFolderError as error:
        logger.warning("prepared rows are damaged and made anew: %s", error)
        return None


def _digest(manifest: Mapping[str, Any]) -> str:
    """Hash what no file hash covers."""
    return fingerprint({name: value for name, value in manifest.items() if name not in ("files", "digest")})


def _map(folder: Path, manifest: Any) -> PreparedData:  # a JSON document
    mapped = partial(read_array, mapped=True)
    preprocessing = Preprocessing.load(folder, manifest)
    return PreparedData(
        folder=folder,
        fingerprint=manifest["fingerprint"],
        labels=mapped(folder / "labels.npy"),
        features=Features(
            dense=mapped(folder / "dense.npy"),
            ids=mapped(folder / "ids.npy"),
            bags=tuple(
                Bags(
                    values=mapped(folder / f"bag_{bag}_ids.npy"),
                    offsets=mapped(folder / f"bag_{bag}_offsets.npy"),
                )
                for bag in range(len(preprocessing.schema.bags))
            ),
        ),
        truth=mapped(folder / "truth.npy") if "truth.npy" in manifest["files"] else None,
        weights=mapped(folder / "weights.npy") if "weights.npy" in manifest["files"] else None,
        split=Split.from_dict(manifest["split"]),
        preprocessing=preprocessing,
        rejected=manifest["rejected"],
        manifest=manifest,
    )
