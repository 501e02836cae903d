"""Damage finished results of runs, cached baselines, and comparisons: they must be computed again or rejected."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.compare.runs import Run
from dlrm_adahessian.compare.worker import CURVATURE
from dlrm_adahessian.config import RunConfig, composed
from dlrm_adahessian.data.datasets import open_dataset
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import ProgramError
from dlrm_adahessian.runs.finished import METRICS, PROGRESSIVE, SEAL, SUMMARY, TEST
from dlrm_adahessian.runtime.settings import validated
from dlrm_adahessian.train.results import RunResult
from dlrm_adahessian.train.run_cache import find_or_fit
from dlrm_adahessian.train.with_baseline import run_job
from tests.compare.studies import run_here
from tests.reliability.outcome import Outcome, counting, warnings_of
from tests.reliability.runs import without_clock

_RESULTS = (SUMMARY, SEAL, METRICS, PROGRESSIVE, TEST)


_KINDS = ("bit flip", "truncation", "swapped", "missing", "edited", "foreign", "folder of another run")


@dataclass(frozen=True)
class _Place:
    """A place with results.

    Attributes:
        name: name in messages.
        runs: pattern of the run folders.
        used: function that creates the results with a seed, or reads them again, and returns them without times.
    """

    name: str
    runs: str
    used: Callable[[Path, int], Any]


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Damage results in three places in turn."""
    tried = "damage to finished results: computed again with a warning, or refused"
    with counting(26, tried, times) as (outcome, show), warnings_of("dlrm_adahessian") as warned:
        outcome.figures = {"made_anew": 0, "refused": 0}
        whole, other, copy = folder / "whole", folder / "other", folder / "tried"
        truths = [place.used(whole, 0) for place in _PLACES]
        for place in _PLACES:
            place.used(other, 1)
        for number in range(times):
            outcome.times += 1
            place, truth = _PLACES[number % len(_PLACES)], truths[number % len(_PLACES)]
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            damaged, what = _harm(copy, other, place.runs, number)
            warned.clear()
            _judge(place, copy, damaged, truth, f"{place.name}: {what}", warned, outcome)
            show()
    yield outcome


def _judge(
    place: _Place, copy: Path, damaged: Path, truth: Any, what: str, warned: list[str], outcome: Outcome
) -> None:
    before = _bytes(damaged)
    try:
        found = place.used(copy, 0)
    except ProgramError:
        outcome.figures["refused"] += 1
        return
    except Exception as error:
        outcome.lose(f"{what}: {error!r}")
        return
    if found != truth or _bytes(damaged) == before:
        outcome.miss(f"{what}: {'other results' if found != truth else 'accepted'}")
    elif not warned and what.split(": ")[1] != f"{SUMMARY} missing":  # without a summary, a run is unfinished
        outcome.lose(f"{what}: computed again without a warning")
    else:
        outcome.figures["made_anew"] += 1


def _bytes(run: Path) -> list[bytes | None]:
    paths = [run / name for name in (*_RESULTS, CURVATURE)]
    return [path.read_bytes() if path.exists() else None for path in paths]


def _harm(copy: Path, other: Path, runs: str, number: int) -> tuple[Path, str]:
    """Damage a run in a copy. Return its folder and a description of the damage."""
    rng = random.Random(number)
    run, foreign = (
        rng.choice(sorted(path for path in place.glob(runs) if path.is_dir())) for place in (copy, other)
    )
    kind = _KINDS[number // len(_PLACES) % len(_KINDS)]
    if kind == "folder of another run":
        shutil.rmtree(run)
        shutil.copytree(foreign, run)
        return run, kind
    names = [name for name in (*_RESULTS, CURVATURE) if (run / name).exists()]
    if kind in ("foreign", "edited"):
        names = [
            name for name in names if (foreign / name).exists() and (kind == "foreign" or name.endswith("n"))
        ]
    path = run / rng.choice(names)
    data = path.read_bytes()
    if kind == "swapped":
        second = rng.choice([run / name for name in names if run / name != path])
        path.write_bytes(second.read_bytes())
        second.write_bytes(data)
    elif kind == "missing":
        path.unlink()
    else:
        path.write_bytes(_changed(kind, data, foreign / path.name, rng))
    return run, f"{path.name} {kind}"


def _changed(kind: str, data: bytes, foreign: Path, rng: random.Random) -> bytes:
    if kind == "foreign":
        return foreign.read_bytes()
    if kind == "truncation":
        return data[: rng.randrange(len(data) - 1)]  # JSON without its final newline has the same content
    if kind == "edited":
        return _edited(data, rng)
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _edited(data: bytes, rng: random.Random) -> bytes:
    """Change a number in a JSON document, or remove a key."""
    document = json.loads(data)
    inner = document
    while isinstance(inner[key := rng.choice(list(inner))], dict) and inner[key]:
        inner = inner[key]
    if isinstance(inner[key], int | float):
        inner[key] += 1
    else:
        del inner[key]
    return json.dumps(document, indent=2).encode() + b"\n"


def _config(folder: Path, seed: int, **more: Any) -> RunConfig:
    return composed({**_small(folder), "seed": seed, "baseline": "none", **more}, "rowwise_adagrad")


def _small(folder: Path) -> dict[str, Any]:
    return {
        "dataset": "synthetic",
        "rows": 1400,
        "batch_size": 128,
        "device": "cpu",
        "model": {"name": "dlrm", "bottom": [8], "top": [8], "embedding_dim": 4},
        "data": {"cache_dir": str(folder / "cache"), "synthetic": {"cardinality_scale": 0.0001}},
    }


def _run_folder(folder: Path, seed: int) -> Any:
    """Train a run, or resume the finished one, which has no steps left."""
    out = folder / "run"
    done = run_job(_config(folder, seed, out=out, resume=out.exists()))
    assert done is not None
    return without_clock(done.asdict()), *((out / name).read_bytes() for name in (PROGRESSIVE, TEST))


def _baseline(folder: Path, seed: int) -> Any:
    config, cpu = _config(folder, seed), torch.device("cpu")
    data = open_dataset(config.dataset, None, config.data, rows=config.rows, bad_rows="strict")
    with init_process_group(cpu):
        found = find_or_fit(config, data, folder / "cache" / "baselines", cpu, title=None)
    assert found is not None
    return _content(found)


def _study(folder: Path, seed: int) -> Any:
    asked = {"optimizers": "adagrad,rowwise_adagrad", "seeds": 2, "trials": 1, "seed": 10 * seed}
    found = run_here(validated(CompareConfig, {**_small(folder), **asked, "out": str(folder / "study")}))
    return [_of_run(run) for each in found.contenders for run in (*each.trials, *each.finals)]


def _of_run(run: Run) -> Any:
    assert run.summary is not None
    curve = [(point.samples, point.logloss) for point in run.curve]
    predictions = run.result and _content(run.result)
    return (
        without_clock(run.summary.asdict()),
        run.judged_logloss,
        run.drawn,
        predictions,
        curve,
        run.curvature,
    )


def _content(found: RunResult) -> Any:
    parts = [(part.labels.tobytes(), part.probability.tobytes()) for part in (found.progressive, found.test)]
    return without_clock(found.summary.asdict()), parts


_PLACES = (
    _Place("run folder", "run", _run_folder),
    _Place("baseline", "cache/baselines/*", _baseline),
    _Place("comparison", "study/runs/*", _study),
)
