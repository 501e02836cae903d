"""Damage prepared data: it must be prepared again in the cache, or rejected if named, and never trained on."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.errors import DataError, ProgramError
from dlrm_adahessian.runs.sealed import MANIFEST
from tests.reliability.outcome import Outcome, counting, warnings_of

_ROWS = 2000
_KINDS = (
    "bit flip",
    "bit flip",
    "truncation",
    "truncation",
    "swapped",
    "foreign",
    "missing",
    "folder of other rows",
)


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Damage files. Half of the tries find the data in the cache, and half name its folder."""
    tried = "damage to prepared data: prepared again with a warning, or refused with 65"
    with (
        counting(14, tried, times) as (outcome, show),
        warnings_of("dlrm_adahessian.data.prepared.folder") as warned,
    ):
        outcome.figures = {"made_anew": 0, "refused": 0}
        whole = _cached(folder / "whole", seed=0)
        other = _cached(folder / "other", seed=1).folder
        truth = _content(whole)
        for number in range(times):
            outcome.times += 1
            shutil.rmtree(folder / "tried", ignore_errors=True)
            shutil.copytree(folder / "whole", folder / "tried")
            damaged = folder / "tried" / whole.folder.name
            what = _harm(damaged, other, number)
            warned.clear()
            if number % 2:
                _judge_named(damaged, what, outcome)
            else:
                _judge_cached(folder / "tried", what, truth, warned, outcome)
            show()
    yield outcome


def _judge_cached(cache: Path, what: str, truth: list[bytes], warned: list[str], outcome: Outcome) -> None:
    try:
        same = _content(_cached(cache, seed=0)) == truth
    except ProgramError as error:
        outcome.lose(f"{what}: {error!r}")
        return
    told = any("damaged and will be prepared again" in text for text in warned)
    outcome.figures["made_anew"] += same and told
    if not (same and told):
        outcome.miss(f"{what}: {'no warning' if same else 'other samples'}")


def _judge_named(damaged: Path, what: str, outcome: Outcome) -> None:
    try:
        open_dataset("criteo", str(damaged), DataConfig(), rows=None, bad_rows="strict")
    except DataError:
        outcome.figures["refused"] += 1
        return
    except Exception as error:
        # Without its manifest, a folder counts as raw data, but contains none.
        if not (what == f"{MANIFEST} missing" and isinstance(error, ProgramError)):
            outcome.lose(f"{what}: {error!r}")
        return
    outcome.miss(f"{what}: accepted")


def _cached(cache: Path, *, seed: int) -> PreparedData:
    config = DataConfig(cache_dir=cache, min_count=2, synthetic=SyntheticConfig(seed=seed))
    return open_dataset("synthetic", None, config, rows=_ROWS, bad_rows="strict")


def _content(data: PreparedData) -> list[bytes]:
    return [
        np.asarray(part).tobytes()
        for part in (data.labels, data.features.dense, data.features.ids, data.truth)
    ]


def _harm(folder: Path, other: Path, number: int) -> str:
    """Damage a file of prepared data, and return a description of the damage."""
    rng = random.Random(number)
    kind, path = _KINDS[number // 2 % len(_KINDS)], rng.choice(sorted(folder.iterdir()))
    if kind == "folder of other rows":
        if number % 2:  # a named folder may contain any data
            kind = "missing"
        else:
            shutil.rmtree(folder)
            shutil.copytree(other, folder)
            return kind
    data = bytearray(path.read_bytes())
    if kind == "bit flip":
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    elif kind == "truncation":
        del data[rng.randrange(len(data) - 1) :]  # a manifest without its final newline has the same content
    elif kind == "foreign":
        path = folder / rng.choice(("labels.npy", "dense.npy", "ids.npy", "truth.npy", MANIFEST))
        data = bytearray((other / path.name).read_bytes())
    elif kind == "swapped":
        second = rng.choice([each for each in sorted(folder.iterdir()) if each != path])
        data = bytearray(second.read_bytes())
        second.write_bytes(path.read_bytes())
    path.write_bytes(data)
    if kind == "missing":
        path.unlink()
    return f"{path.name} {kind}"
