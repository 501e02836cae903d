"""A value that is not finite on one of two ranks: both must skip the step, count it, and change nothing.

After three such steps in a row, both go back to a checkpoint. A temporary fault leaves no trace, and a permanent one ends
the run.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import load_file
from torch import Tensor

from dlrm_adahessian import cli
from dlrm_adahessian.errors import DivergedError
from dlrm_adahessian.train import loop
from tests.processes import worlds
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import committed, differences, job, last_step

_PLACES = ("input", "row", "loss", "grad", "curvature", "pooled_grad", "pooled_curvature")
_VALUES = (float("nan"), float("inf"), -float("inf"))
_FIRST, _APART = 3, 2  # the faulty steps are 3, 5, 7, ...
_SPOILT = 20  # first step of the later faults
_PASSING = ("input", "row", "parameters", "optimizer")
"""Places of a temporary fault: the input of three steps, or memory, which stays bad until it is restored."""
_COUNTERS = ("rollbacks", "rolled_back_to")


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Inject bad numbers on the second rank at several steps, then at every step until the run ends."""
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
    yield _passes(max(1, times // 10), folder)
    yield _stays(folder)


def _passes(times: int, folder: Path) -> Outcome:
    """Corrupt memory or input of the second rank once. The run must end like an undisturbed one."""
    tried = "temporary NaN on one rank of two: both go back to a checkpoint, and end like an undisturbed run"
    with counting(8, tried, times) as (outcome, show):
        outcome.figures = {"rollbacks": 0}
        whole, log = folder / "whole", folder / "passes"
        worlds.run(2, cli.main, ["train", *job(whole, "--epochs", 1)], log=log)
        for number in range(times):
            out, what = folder / f"passes-{number}", _PASSING[number % len(_PASSING)]
            flags = job(out, "--epochs", 1)
            codes = worlds.wait(
                worlds.start(2, _spoilt_once, flags, what, log=log.with_suffix(f".{number}")), 600
            )
            printed = worlds.printed(log.with_suffix(f".{number}"), 0)
            outcome.expect(codes == [0, 0], f"{what}: exit codes {codes}: {printed[-500:]}")
            if codes == [0, 0]:
                rollbacks = json.loads((out / "summary.json").read_text())["rollbacks"]
                outcome.figures["rollbacks"] += rollbacks
                if rollbacks != 1 or "went back to the checkpoint" not in printed:
                    outcome.miss(f"{what}: {rollbacks} rollbacks: {printed[-500:]}")
                if found := differences(out, whole, ignored=_COUNTERS):
                    outcome.miss(f"{what}: differs from the undisturbed run: {', '.join(found)}")
            show()
    return outcome


def _stays(folder: Path) -> Outcome:
    tried = f"NaN at every step from the {_SPOILT}th on: one rollback, then exit 4, and all saved values are finite"
    with counting(8, tried) as (outcome, show):
        log, out = folder / "diverges", folder / "diverged"
        codes = worlds.wait(worlds.start(2, _diverge, job(out), log=log), 600)
        printed = worlds.printed(log, 0)
        code = DivergedError.exit_code
        outcome.expect(codes == [code, code], f"exit codes {codes}: {printed[-500:]}")
        outcome.figures = {
            "skipped": printed.count(" skipped: "),
            "rollbacks": len(re.findall(r"went back to the checkpoint of step \d+, ", printed)),
            "saved": committed(out),
            "last": last_step(out),
        }
        if outcome.figures["rollbacks"] != 1:
            outcome.lose(f"{outcome.figures['rollbacks']} rollbacks: {printed[-500:]}")
        spoilt = [path.name for path in out.glob("checkpoints/step-*/*.safetensors") if not _is_finite(path)]
        if spoilt:
            outcome.miss(f"saved values that are not finite: {', '.join(spoilt)}")
        show()
    return outcome


def _is_finite(path: Path) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in load_file(path).values())


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
    """Return whether this rank gets bad numbers."""
    return os.environ["RANK"] == "1"


def _skip(flags: list[str], times: int) -> int:
    """Train with a bad number at some steps, and write which of them changed a tensor of this rank."""
    real, met, fits = loop._Fit._step, [], []

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

    with mock.patch.object(loop._Fit, "_step", step):
        code = cli.main(["train", *flags])
    out = Path(flags[flags.index("--out") + 1])
    report = {"met": met, "skipped": fits[0].progress.skipped}
    out.with_name(f"run-{os.environ['RANK']}.json").write_text(json.dumps(report))
    return code


def _diverge(flags: list[str]) -> int:
    """Train with NaN at each step from a given one on."""

    def spoil(fit: Any, batch: Any, step: int) -> None:
        if step >= _SPOILT:
            batch.dense[0, 0] = float("nan")

    return _train(flags, spoil)


def _spoilt_once(flags: list[str], what: str) -> int:
    """Train with a temporary fault."""

    def spoil(fit: Any, batch: Any, step: int) -> None:
        if fit.progress.rollbacks:
            return
        if what == "input" and _SPOILT <= step < _SPOILT + 3:
            batch.dense[0, 0] = float("nan")
        elif what == "row" and step == _SPOILT:
            for shard in fit.state.lookup.shards().values():
                shard.tensors["weight"].fill_(float("nan"))
        elif what == "parameters" and step == _SPOILT:
            fit.state.parameters.data[0] = float("nan")
        elif what == "optimizer" and step == _SPOILT:
            next(t for t in fit.state.dense_optimizer.state.values() if t.is_floating_point()).fill_(
                float("nan")
            )

    return _train(flags, spoil)


def _train(flags: list[str], spoil: Callable[[Any, Any, int], None]) -> int:
    """Train. On the second rank, `spoil` is called with the run, the batch, and the step number before each step."""
    real = loop._Fit._step

    def step(fit: Any, batch: Any, following: Any) -> Any:
        if _is_bad():
            spoil(fit, batch, fit.progress.step + 1)
        return real(fit, batch, following)

    with mock.patch.object(loop._Fit, "_step", step):
        return cli.main(["train", *flags])


@contextmanager
def _poison(fit: Any, batch: Any, place: str, value: float) -> Iterator[None]:
    """Put a bad number in the named place for one step."""
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
    if getattr(found, place) is None:  # the curvature, at a step without it
        place = "grad"
    spoilt = getattr(found, place).clone()
    spoilt.view(-1)[0] = value
    return replace(found, **{place: spoilt}, sums=None)


def _tensors(fit: Any) -> dict[str, Tensor]:
    """Return copies of all tensors that a checkpoint of this rank contains."""
    dense = fit.state._dense_tensors()
    rows = {
        f"{name}/{key}": tensor
        for name, shard in fit.state.lookup.shards().items()
        for key, tensor in shard.tensors.items()
    }
    return {name: tensor.clone() for name, tensor in {**dense, **rows}.items()}
