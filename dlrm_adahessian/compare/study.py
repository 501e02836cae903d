# pyright: basic
"""All runs of a comparison: trials, the choice among them, final runs.

Every entrant gets the same samples in the same order, with one model the same initial weights, the same choice of
schedules and the same number of trials. Trials are judged as `search` says. Test samples are looked at in final runs only.
A run that is finished or known to diverge is found again, so a comparison that was killed goes on where it stood.
Where runs share the machine, a step of each entrant is timed after them, one entrant after another.
"""

import logging
import math
import multiprocessing
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlrm_adahessian.compare.config import CompareConfig, run_config, trial_config
from dlrm_adahessian.compare.folder import claim, require_settings
from dlrm_adahessian.compare.runs import Run
from dlrm_adahessian.compare.search import Search
from dlrm_adahessian.compare.worker import begin, time_steps, train
from dlrm_adahessian.config import RunConfig, asdict
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.errors import StorageError
from dlrm_adahessian.runs.finished import PROGRESSIVE
from dlrm_adahessian.runs.kinds import require_kind
from dlrm_adahessian.runs.run_directory import locked_folder
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.runtime.terminal import progress_bar
from dlrm_adahessian.train.run_cache import run_path
from dlrm_adahessian.train.samples import open_samples

logger = logging.getLogger(__name__)

_CURVE_POINTS = 20  # validations within a final run, for curves of quality against samples and seconds


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What one search of an entrant did.

    Attributes:
        trials: in order.
        chosen: hyper-parameters of the best trial; empty without trials.
        finals: the final runs with these, one per seed.
    """

    trials: list[Run]
    chosen: dict[str, Any]
    finals: list[Run]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """What one entrant did.

    Attributes:
        name: of the entrant.
        searches: its searches in order.
        step_ms_apart: duration of a step that no other run slows; None where it was not measured.
    """

    name: str
    searches: list[SearchResult]
    step_ms_apart: float | None = None

    @property
    def trials(self) -> list[Run]:
        """Those of all searches."""
        return [run for search in self.searches for run in search.trials]

    @property
    def finals(self) -> list[Run]:
        """Those of all searches, one per seed."""
        return [run for search in self.searches for run in search.finals]


@dataclass(frozen=True, kw_only=True)
class Study:
    """All that a comparison ran.

    Attributes:
        config: of the comparison.
        data: its samples.
        contenders: in the order of the configuration.
    """

    config: CompareConfig
    data: PreparedData
    contenders: list[Contender]


def run_study(config: CompareConfig) -> Study:
    """Run what is not finished yet.

    Args:
        config: of the comparison.

    Returns:
        All runs.

    Raises:
        StorageError: a process that trained was killed, most likely for lack of memory.
    """
    presets = {name: run_config(config, name, seed=config.seed) for name in config.entrants}
    find_device(config.device)  # refused before anything is written
    require_kind(config.out, "comparison")
    with locked_folder(config.out):
        require_settings(config)
        data = open_samples(config)
        claim(config, data.fingerprint)
        cores = len(os.sched_getaffinity(0))
        pool = ProcessPoolExecutor(
            config.parallel,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=begin,
            initargs=(data.folder, max(1, cores // config.parallel), os.getpid()),
        )
        total = len(presets) * (config.searches * (config.trials + config.refine) + config.seeds)
        try:
            with pool, _StudyBar(total, len(data.split.train)) as progress:
                runner = _Runner(config, data, pool, progress)
                contenders = _contend(runner, presets, config.searches)
                if config.parallel > 1:
                    contenders = [runner.timed(contender, cores) for contender in contenders]
        except BrokenProcessPool as error:
            raise StorageError(
                f"a process that trained was killed, most likely for lack of memory with {config.parallel} runs at "
                "once; lower --parallel and start again: finished runs are kept"
            ) from error
    return Study(config=config, data=data, contenders=contenders)


def _contend(runner: "_Runner", presets: Mapping[str, RunConfig], searches: int) -> list[Contender]:
    # A thread per search: its trials may depend on each other, those of different ones do not.
    with ThreadPoolExecutor(len(presets) * searches) as threads:
        try:
            tuned = [
                threads.submit(runner.tune, name, preset, k)
                for name, preset in presets.items()
                for k in range(searches)
            ]
            done = iter([future.result() for future in tuned])
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # or the threads would wait for their runs
            raise
    return [Contender(name=name, searches=[next(done) for _ in range(searches)]) for name in presets]


class _Runner:
    """Trains the runs of one comparison in a pool of processes."""

    def __init__(
        self, config: CompareConfig, data: PreparedData, pool: ProcessPoolExecutor, progress: "_StudyBar"
    ) -> None:
        self._config, self._data, self._pool, self._progress = config, data, pool, progress
        self._root = config.out / "runs"

    def tune(self, name: str, preset: RunConfig, number: int) -> SearchResult:
        """Draw, choose, and train the final runs of one search of an entrant, which are numbered from 0."""
        config = self._config
        search = Search(preset, config.sampler, config.search_seed(number))
        trials: list[Run] = []
        for trial in range(config.trials + config.refine):
            asked, drawn = search.ask() if trial < config.trials else search.refine()
            [run] = self._train([trial_config(config, name, drawn, search=number)], drawn, final=False)
            search.tell(asked, run.judged_logloss)
            trials.append(run)
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
        return SearchResult(trials=trials, chosen=chosen, finals=self._train(finals, chosen, final=True))

    def timed(self, contender: Contender, threads: int) -> Contender:
        """Time the steps of an entrant, those of its first final run that finished."""
        finished = [run for run in contender.finals if run.summary is not None]
        if not finished:
            return contender
        ms = self._pool.submit(time_steps, asdict(finished[0].config), self._root, threads).result()
        return replace(contender, step_ms_apart=ms)

    def _train(self, configs: Sequence[RunConfig], drawn: dict[str, Any], *, final: bool) -> list[Run]:
        device = find_device(self._config.device)
        folders = [run_path(config, self._data, self._root, device) for config in configs]
        self._progress.started(folders)
        # The first of the final runs shows where the curvature lies.
        waiting = [
            self._pool.submit(
                train,
                asdict(config),
                self._root,
                select=self._config.select,
                diagnose=final and config is configs[0],
            )
            for config in configs
        ]
        runs: list[Run] = []
        for config, folder, future in zip(configs, folders, waiting, strict=True):
            judged = future.result()
            self._progress.finished(folder)
            run = Run(config=config, folder=folder, drawn=drawn)
            if judged is not None:
                select = self._config.select
                run = run.as_final(judged, self._data, select) if final else run.as_trial(judged)
            runs.append(run)
        return runs


def best_of(trials: Sequence[Run]) -> Run:
    """Return the trial with the lowest log loss of those samples that judge; when all diverged, the first."""
    return min(trials, key=lambda run: math.inf if run.judged_logloss is None else run.judged_logloss)


class _StudyBar:
    """A bar over the samples of all runs; looks at what running processes have written so far."""

    def __init__(self, runs: int, rows: int) -> None:
        self._runs, self._rows, self._done = runs, rows, 0
        self._running: set[Path] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._bar = progress_bar(f"{runs} runs", unit=" rows", total=runs * rows)

    def __enter__(self) -> "_StudyBar":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._bar.close()

    def started(self, folders: Sequence[Path]) -> None:
        """Watch these runs."""
        with self._lock:
            self._running.update(folders)

    def finished(self, folder: Path) -> None:
        """Count a run as done."""
        with self._lock:
            self._running.discard(folder)
            self._done += 1

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            with self._lock:
                predicted = [folder / PROGRESSIVE for folder in self._running]
                rows = self._done * self._rows
                self._bar.set_postfix_str(f"{self._done} of {self._runs} runs done", refresh=False)
            rows += sum(path.stat().st_size // 4 for path in predicted if path.exists())
            self._bar.n = min(self._bar.total, rows)
            self._bar.refresh()
