"""Repeat a run with other settings of the reader thread. All results must be bitwise identical."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from dlrm_adahessian import cli
from tests.processes import worlds
from tests.reliability.outcome import Outcome, counting
from tests.reliability.runs import Single, differences, job, uninterrupted

_PREFETCH = (4, 1, 2, 64)  # prefetched batches; the first value is the default
_ORDERS = ("time", "shuffled")


def run(times: int, folder: Path) -> Iterator[Outcome]:
    """Repeat the job on one process, in time order or shuffled, and a quarter as often on two ranks."""
    with counting(7, "same seed, same run, with 1 to 64 batches read ahead", times) as (outcome, show):
        firsts: dict[str, Path] = {"time": uninterrupted(folder, 1)}
        for number in range(times):
            order = _ORDERS[number % 2]
            out, log = folder / f"run-{number}", folder / "log"
            prefetch = _PREFETCH[number // 2 % len(_PREFETCH)]
            again = Single(job(out, "--data.order", order, "--data.prefetch", prefetch), log)
            code = again.wait()
            outcome.expect(code == 0, f"exit {code}: {again.printed()[-300:]}")
            if code == 0 and (found := differences(out, firsts.setdefault(order, out))):
                outcome.miss(f"{order}, prefetch {prefetch}: {', '.join(found)} differ")
            if out not in firsts.values():
                shutil.rmtree(out)
            show()
    yield outcome
    times = max(1, times // 4)
    with counting(7, "the same on 2 ranks", times) as (outcome, show):
        outs = [folder / f"two-{number}" for number in range(times + 1)]
        for number, out in enumerate(outs):
            flags = job(out, "--epochs", 1, "--data.prefetch", _PREFETCH[number % len(_PREFETCH)])
            codes = worlds.wait(
                worlds.start(2, cli.main, ["train", *flags], log=folder / f"two-{number}.log"), 600
            )
            if number:
                outcome.expect(codes == [0, 0], f"exit codes {codes}")
                if found := differences(out, outs[0]):
                    outcome.miss(f"{', '.join(found)} differ")
            show()
    yield outcome
