# pyright: basic
"""Run a comparison: trials, the selection among them, and final runs.

Every entrant gets the same samples in the same order, the same choice of schedules, and the same number of trials.
Optimizers of one model also start from the same initial weights. `search` ranks the trials. Only final runs use the test
samples. A comparison that was killed finds its finished and diverged runs again, and continues with the others. If runs
share the machine, the steps of each entrant are timed afterward, one entrant at a time.

Other processes can join, also on other machines. All processes go through the same runs, and train those that no other
process trains (runs/lease.py). Trials and selections depend only on results, not on which process trained what.
"""

import asyncio
import logging
import math
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dlrm_adahessian.compare.config import CompareConfig, run_config, trial_config
from dlrm_adahessian.compare.folder import claim, require_settings
from dlrm_adahessian.compare.joining import joined, joining
from dlrm_adahessian.compare.progress import StudyBar
from dlrm_adahessian.compare.runs import Run
from dlrm_adahessian.compare.search import Search
from dlrm_adahessian.compare.worker import Judged, begin, time_steps, train
from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.runs.kinds import require_kind
from dlrm_adahessian.runs.lease import Holder
from dlrm_adahessian.runs.run_directory import locked_folder
from dlrm_adahessian.runs.sealed import require_no_links
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.train.run_cache import run_path
from dlrm_adahessian.train.samples import open_samples

logger = logging.getLogger(__name__)

_CURVE_POINTS = 20  # validations per final run, for its learning curve
_LOOK_EVERY = 5.0  # largest time in seconds between two checks of a run that another process trains


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """Runs of one search of an entrant.

    Attributes:
        trials: trials in order.
        chosen: hyper-parameters of the best trial; empty without trials.
        finals: final runs with these, one per seed.
    """

    trials: list[Run]
    chosen: dict[str, Any]
    finals: list[Run]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Runs of one entrant.

    Attributes:
        name: name of the entrant.
        searches: searches in order.
        step_ms_apart: step time in milliseconds, measured with the machine to itself; None if not measured.
    """

    name: str
    searches: list[SearchResult]
    step_ms_apart: float | None = None

    @property
    def trials(self) -> list[Run]:
        """Trials of all searches."""
        return [run for search in self.searches for run in search.trials]

    @property
    def finals(self) -> list[Run]:
        """Final runs of all searches, one per seed."""
        return [run for search in self.searches for run in search.finals]


@dataclass(frozen=True, kw_only=True)
class Study:
    """All runs of a comparison.

    Attributes:
        config: settings of the comparison.
        data: samples of the comparison.
        contenders: runs of each entrant, in the order of the configuration.
    """

    config: CompareConfig
    data: PreparedData
    contenders: list[Contender]


def run_study(config: CompareConfig) -> Study:
    """Train all runs of a comparison that are not finished.

    Args:
        config: settings of the comparison.

    Returns:
        All runs. A StorageError is raised if a training process is killed, most likely for lack of memory.
    """
    for name in config.entrants:
        run_config(
            config, name, seed=config.seed
        )  # refuse invalid settings, like the device, before writing anything
    device = find_device(config.device)
    require_kind(config.out, "comparison")
    with locked_folder(config.out):
        require_settings(config)
        data = open_samples(config)
        threads = max(1, len(os.sched_getaffinity(0)) // config.parallel)
        claim(config, data.fingerprint, joining(config, data, device.type, threads))
        contenders = [
            _as_reported(each, data, config) for each in _run_all(config, data, threads, timed=True)
        ]
    return Study(config=config, data=data, contenders=contenders)


def join_study(out: Path, parallel: int) -> None:
    """Train runs of a comparison that another process started, until all are done. That process writes the report.

    Args:
        out: folder of the comparison.
        parallel: number of runs that this process trains at once.
    """
    config, data, threads = joined(out, parallel)
    require_no_links(out)
    find_device(config.device)
    logger.info("Joined %s. Each run has %d threads, as in the process that started it.", out, threads)
    contenders = _run_all(config, data, threads)
    runs = sum(len(each.trials) + len(each.finals) for each in contenders)
    logger.info("All %d runs of %s are done. The process that started it writes the report.", runs, out)


def _run_all(
    config: CompareConfig, data: PreparedData, threads: int, *, timed: bool = False
) -> list[Contender]:
    pool = ProcessPoolExecutor(
        config.parallel,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=begin,
        initargs=(data.folder, threads, os.getpid()),
    )
    total = len(config.entrants) * (config.searches * (config.trials + config.refine) + config.seeds)
    try:
        with pool, StudyBar(total, len(data.split.train)) as progress:
            runner = _Runner(config, data, pool, progress)
            try:
                contenders = asyncio.run(_contend(runner))
                return (
                    [runner.timed(each) for each in contenders]
                    if timed and config.parallel > 1
                    else contenders
                )
            except BaseException:
                for process in multiprocessing.active_children():
                    process.terminate()  # otherwise the pool waits for their runs
                raise
    except BrokenProcessPool as error:
        raise StorageError(
            f"A training process was killed, most likely for lack of memory with {config.parallel} runs at once. "
            "Lower --parallel and run the same command again: finished runs are kept."
        ) from error


async def _contend(runner: "_Runner") -> list[Contender]:
    config = runner.config
    searches = [(name, k) for name in config.entrants for k in range(config.searches)]
    done = iter(await asyncio.gather(*(runner.tune(name, k) for name, k in searches)))
    return [
        Contender(name=name, searches=[next(done) for _ in range(config.searches)])
        for name in config.entrants
    ]


def _as_reported(contender: Contender, data: PreparedData, config: CompareConfig) -> Contender:
    searches = [
        replace(search, finals=[run.as_final(data, config.select) for run in search.finals])
        for search in contender.searches
    ]
    return replace(contender, searches=searches)


class _Runner:
    """Trains the runs of one comparison in a pool of processes, except those that other processes train."""

    def __init__(self, config: CompareConfig, data: PreparedData, pool: Executor, progress: StudyBar) -> None:
        self.config, self._data, self._pool, self._progress = config, data, pool, progress
        self._root = config.out / "runs"
        self._device = find_device(config.device)

    async def tune(self, name: str, number: int) -> SearchResult:
        """Train the trials of one search of an entrant, select the best, and train the final runs; searches count from 0."""
        config = self.config
        preset = run_config(config, name, seed=config.seed)
        search = Search(preset, config.sampler, config.search_seed(number))
        # Random trials are independent, and can train together. TPE and refined trials depend on all earlier ones.
        wide = [config.trials] if config.sampler == "random" else [1] * config.trials
        trials: list[Run] = []
        for together in [*wide, *[1] * config.refine]:
            refined = len(trials) >= config.trials
            asked = [search.refine() if refined else search.ask() for _ in range(together)]
            drawn = [parameters for _, parameters in asked]
            runs = await self._train(
                [trial_config(config, name, each, search=number) for each in drawn], drawn
            )
            for (trial, _), run in zip(asked, runs, strict=True):
                search.tell(trial, run.judged_logloss)
            trials += runs
        chosen = best_of(trials).drawn if trials else {}
        steps = math.ceil(len(self._data.split.train) / config.batch_size) * config.epochs
        finals = [
            replace(
                run_config(config, name, seed=seed, drawn=chosen),
                eval_every=max(1, steps // _CURVE_POINTS),
                log_every=max(1, steps // _CURVE_POINTS),
            )
            for seed in config.seeds_of(number)
        ]
        # The curvature by token frequency is measured in the first final run only.
        done = await self._train(finals, [chosen] * len(finals), diagnosed=1)
        return SearchResult(trials=trials, chosen=chosen, finals=done)

    def timed(self, contender: Contender) -> Contender:
        """Time the steps of an entrant on all cores, with the settings of its first finished final run."""
        finished = [run for run in contender.finals if run.summary is not None]
        if not finished:
            return contender
        cores = len(os.sched_getaffinity(0))
        ms = self._pool.submit(time_steps, asdict(finished[0].config), self._root, cores).result()
        return replace(contender, step_ms_apart=ms)

    async def _train(
        self, configs: Sequence[RunConfig], drawn: Sequence[dict[str, Any]], *, diagnosed: int = 0
    ) -> list[Run]:
        """Train independent runs, and measure the curvature of the first `diagnosed` ones."""
        runs = (
            self._done(config, parameters, diagnose=place < diagnosed)
            for place, (config, parameters) in enumerate(zip(configs, drawn, strict=True))
        )
        return await asyncio.gather(*runs)

    async def _done(self, config: RunConfig, drawn: dict[str, Any], *, diagnose: bool) -> Run:
        folder = run_path(config, self._data, self._root, self._device)
        work: Callable[[], Judged | Holder] = partial(
            train,
            asdict(config),
            self._root,
            select=self.config.select,
            diagnose=diagnose,
            lease=self.config.lease,
        )
        self._progress.started(folder)
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, work)
        while isinstance(found, Holder):
            with self._progress.elsewhere(folder, found):
                await asyncio.sleep(min(_LOOK_EVERY, self.config.lease / 4))
            found = await loop.run_in_executor(self._pool, work)
        self._progress.finished(folder)
        return Run(config=config, folder=folder, drawn=drawn).as_judged(found)


def best_of(trials: Sequence[Run]) -> Run:
    """Return the trial with the lowest log loss on the selection set; the first trial if all diverged."""
    return min(trials, key=lambda run: math.inf if run.judged_logloss is None else run.judged_logloss)
