"""A number that is not finite on one rank of two: no rank learns from that step, all count it, and nothing changed."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from dlrm_adahessian import cli, trainer
from dlrm_adahessian.errors import DivergedError
from reliability.outcome import Outcome, counting
from reliability.runs import committed, job, last_step
from tests.distributed import worlds

_PLACES = ("input", "row", "loss", "grad", "curvature", "pooled_grad", "pooled_curvature")
_VALUES = (float("nan"), float("inf"), -float("inf"))
_FIRST, _APART = 3, 2  # steps that meet one: 3, 5, 7, ...
_DIVERGES = 20  # step from which all meet one


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Put so many bad numbers into the second rank of a run; then nothing else, until it gives up."""
    tried = "NaN or Inf on one rank of two: both skip the step, and nothing changes"
    with counting(8, tried, times) as (outcome, show):
        log, flags = folder / "skips", job(folder / "run", "--epochs", 1 + times // 18)
        codes = worlds.wait(worlds.start(2, _skip, flags, times, log=log), 900)
        if codes != [0, 0]:
            outcome.lose(
                f"exit codes {codes}: {worlds.printed(log, 0)[-500:]}{worlds.printed(log, 1)[-500:]}"
            )
        for rank in (0, 1):
            _judge(outcome, folder / f"run-{rank}.json", times)
        show()
    yield outcome
    with counting(8, "NaN at every step from the 20th on: exit 4, what was saved is finite") as (
        outcome,
        show,
    ):
        log, out = folder / "diverges", folder / "diverged"
        codes = worlds.wait(worlds.start(2, _diverge, job(out), log=log), 600)
        printed = worlds.printed(log, 0)
        code = DivergedError.exit_code
        outcome.expect(codes == [code, code], f"exit codes {codes}: {printed[-500:]}")
        outcome.figures = {
            "skipped_in_a_row": printed.count(" skipped: "),
            "saved": committed(out),
            "last": last_step(out),
        }
        show()
    yield outcome


def _judge(outcome: Outcome, report: Path, times: int) -> None:
    found = json.loads(report.read_text()) if report.exists() else {"met": [], "skipped": 0}
    outcome.times = len(found["met"])
    outcome.figures["skipped"] = found["skipped"]
    for step, place, value, changed in found["met"]:
        if changed:
            outcome.miss(f"step {step}, {place} {value}: changed {', '.join(changed[:5])}")
    if found["skipped"] != times:
        outcome.lose(f"{times} bad numbers, {found['skipped']} steps skipped")


def _is_bad() -> bool:
    """Whether this is the rank that meets bad numbers."""
    return os.environ["RANK"] == "1"


def _skip(flags: list[str], times: int) -> int:
    """Train, meet a bad number at some steps, and write which of them changed a tensor of this rank."""
    real, met, fits = trainer._Fit._step, [], []

    def step(fit: Any, batch: Any, following: Any) -> Any:
        fits[:] = [fit]
        number, rest = divmod(fit.progress.step + 1 - _FIRST, _APART)
        if rest or not 0 <= number < times:
            return real(fit, batch, following)
        place, value = _PLACES[number % len(_PLACES)], _VALUES[number // len(_PLACES) % len(_VALUES)]
        before = _tensors(fit)
        with _poison(fit, batch, place, value) if _is_bad() else nullcontext():
            found = real(fit, batch, following)
        after = _tensors(fit)
        changed = [name for name, tensor in before.items() if not torch.equal(tensor, after[name])]
        met.append((fit.progress.step, place, str(value), changed))
        return found

    with mock.patch.object(trainer._Fit, "_step", step):
        code = cli.main(["train", *flags])
    out = Path(flags[flags.index("--out") + 1])
    report = {"met": met, "skipped": fits[0].progress.skipped}
    out.with_name(f"run-{os.environ['RANK']}.json").write_text(json.dumps(report))
    return code


def _diverge(flags: list[str]) -> int:
    real = trainer._Fit._step

    def step(fit: Any, batch: Any, following: Any) -> Any:
        if _is_bad() and fit.progress.step + 1 >= _DIVERGES:
            batch.dense[0, 0] = float("nan")
        return real(fit, batch, following)

    with mock.patch.object(trainer._Fit, "_step", step):
        return cli.main(["train", *flags])


@contextmanager
def _poison(fit: Any, batch: Any, place: str, value: float) -> Iterator[None]:
    """Put a bad number where it is named, for the time of a step."""
    state = fit.state
    if place == "input":
        batch.dense[0, 0] = value
        yield
    elif place == "row":
        weight = next(iter(state.lookup.shards().values())).tensors["weight"]
        kept = weight.clone()
        weight.fill_(value)
        yield
        weight.copy_(kept)
    else:
        real = state.estimator
        state.estimator = lambda *args, **options: _spoilt(real(*args, **options), place, value)
        yield
        state.estimator = real


def _spoilt(found: Any, place: str, value: float) -> Any:
    if getattr(found, place) is None:  # of the curvature, at a step without
        place = "grad"
    spoilt = getattr(found, place).clone()
    spoilt.view(-1)[0] = value
    return replace(found, **{place: spoilt}, sums=None)


def _tensors(fit: Any) -> dict[str, Tensor]:
    """Return copies of all that a checkpoint of this rank has."""
    dense = fit.state._dense_tensors()
    rows = {
        f"{name}/{key}": tensor
        for name, shard in fit.state.lookup.shards().items()
        for key, tensor in shard.tensors.items()
    }
    return {name: tensor.clone() for name, tensor in {**dense, **rows}.items()}
