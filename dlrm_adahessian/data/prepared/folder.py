"""Cache prepared data on disk, in folders named by a fingerprint of their inputs.

A folder of the cache is sealed (runs/sealed.py): it is complete or absent, and a changed byte is detected before
training. One process creates it; others that need the same data wait and then use it.
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
"""Version of the file format. Folders with another version are prepared again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """Samples ready to train on, mapped read-only.

    Attributes:
        folder: folder of the files.
        fingerprint: hash of everything that determines the data.
        labels: (N,) int8, 0 or 1.
        features: inputs of a model for the N samples.
        truth: (N,) float32 true click probability of generated samples; None for others.
        weights: (N,) float32, finite and at least 0, weight of each sample in training; None for 1 each.
        split: training, test, and validation parts.
        preprocessing: schema, vocabulary, and scales that made the features.
        rejected: number of bad lines in quarantine.
        manifest: contents of the manifest file.
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
        """Mean number of values per training sample of each of the F categorical features."""
        train = self.split.train
        of_bags = (bags.offsets[train.stop] - bags.offsets[train.start] for bags in self.features.bags)
        return (1.0,) * self.features.ids.shape[1] + tuple(float(values) / len(train) for values in of_bags)

    def population_weights(self, rows: slice | npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Return the weights of some samples in the population, (rows,) float32; None for 1 each."""
        weights = None if self.weights is None else np.asarray(self.weights[rows])
        return population_weights(self.preprocessing.schema.label, np.asarray(self.labels[rows]), weights)


def open_prepared(folder: Path) -> PreparedData:
    """Verify every byte of prepared data and map it.

    Args:
        folder: a folder of the cache.

    Returns:
        The data. Raises `DamagedFolderError` if the folder changed since it was written, or has another format.
    """
    manifest = read_sealed(folder)
    _check(folder, manifest)
    with storage_errors(folder):
        return _map(folder, manifest)


def map_prepared(folder: Path) -> PreparedData:
    """Map prepared data that another process has verified. Raises the same errors as `open_prepared`."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        raise DamagedFolderError(f"{folder / MANIFEST} must contain a JSON object")
    _check(folder, manifest)
    with storage_errors(folder):
        return _map(folder, manifest)


def _check(folder: Path, manifest: Mapping[str, Any]) -> None:
    if manifest.get("format") != FORMAT:
        raise DamagedFolderError(f"{folder} must have format {FORMAT}, found {manifest.get('format')!r}")
    if manifest.get("digest") != _digest(manifest):
        raise DamagedFolderError(f"{folder / MANIFEST} changed since it was written")


def find_or_make(
    cache_dir: Path, dataset: str, key: Mapping[str, Any], fill: Callable[[Path], Mapping[str, Any]]
) -> PreparedData:
    """Return the prepared data of a key. Prepare it if it is damaged or not in the cache.

    Args:
        cache_dir: folder that contains a folder per key.
        dataset: prefix of the folder name.
        key: everything that determines the data, as JSON values.
        fill: writes the data into an empty folder and returns the manifest entries, including the numbers of `rows`
            and of `rejected` lines.

    Returns:
        The data.
    """
    name = fingerprint(key)
    folder = cache_dir / f"{dataset}-{name}"

    def fill_and_name(into: Path) -> dict[str, Any]:
        return {**fill(into), "fingerprint": name, "key": key}

    with turn_at(folder):
        return _reusable(folder) or make(folder, fill_and_name)


@contextmanager
def turn_at(folder: Path) -> Generator[None]:
    """Hold the lock of a cache folder. Log a message if this process has to wait for it.

    Args:
        folder: the folder; it need not exist.

    Yields:
        Nothing.
    """
    lock = folder.with_name(f"{folder.name}.lock")
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(lock, wait=False))
        except LockedError:
            logger.info("waiting for another process to prepare %s", folder)
            stack.enter_context(exclusive_lock(lock, wait=True))
        yield


def make(folder: Path, fill: Callable[[Path], Mapping[str, Any]]) -> PreparedData:
    """Fill and seal a folder whose lock this process holds. `fill` also returns `fingerprint` and `key`."""
    with storage_errors(folder):
        remove_leftovers(folder.parent, of=folder.name)
    logger.info("preparing data in %s", folder)
    meta: dict[str, Any] = {"format": FORMAT}
    with sealed_folder(folder, meta) as temporary:
        meta.update(fill(temporary))
        meta["digest"] = _digest(meta)
    # Sealing read and hashed every byte, so there is no need to verify again.
    with storage_errors(folder):
        return _map(folder, json.loads((folder / MANIFEST).read_bytes()))


def adopt(made: PreparedData, cache_dir: Path, dataset: str) -> PreparedData:
    """Move data whose fingerprint is known only now to the folder of that name, unless the folder exists already."""
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
    # This process could not replace another user's folder, so preparing the data again would be in vain.
    if not os.access(folder, os.R_OK | os.X_OK):
        raise StorageError(
            f"Cannot read the prepared data in {folder}: permission denied. Ask its owner for access, or choose another "
            "folder with --data.cache-dir."
        )
    try:
        found = open_prepared(folder)
        if not folder.name.endswith(f"-{found.fingerprint}"):
            raise DamagedFolderError(f"{folder} contains data {found.fingerprint}, which is not its name")
        return found
    except DamagedFolderError as error:
        logger.warning("prepared data is damaged and will be prepared again: %s", error)
        return None


def _digest(manifest: Mapping[str, Any]) -> str:
    """Hash the manifest entries, which no file hash covers."""
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
