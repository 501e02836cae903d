# pyright: basic
"""Summarize finished runs: means, differences with intervals, quality of trials, and time to a target log loss."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from dlrm_adahessian.compare.bands import BANDS, band_of_ids, bands_of_samples, logloss_by_band
from dlrm_adahessian.compare.config import CompareConfig, settings_of
from dlrm_adahessian.compare.results import (
    NEAR_BEST,
    PARTS,
    Choice,
    Comparison,
    CurvePoint,
    EntrantResult,
    Means,
    PairDifference,
    Part,
    TimeToTarget,
    TokenBands,
    Trials,
)
from dlrm_adahessian.compare.runs import Run
from dlrm_adahessian.compare.search import at_an_edge, reported_samples
from dlrm_adahessian.compare.study import Contender, SearchResult, Study, best_of
from dlrm_adahessian.metrics.binary import METRICS, BinaryMetrics
from dlrm_adahessian.runs.run_directory import environment
from dlrm_adahessian.statistics.components import minimum_detectable
from dlrm_adahessian.statistics.crossed import CrossedDifference, crossed_difference
from dlrm_adahessian.statistics.intervals import holm
from dlrm_adahessian.train.results import RunResult

_Finals = Mapping[
    str, Mapping[int, RunResult]
]  # finished final runs by entrant and seed, without diverged ones


class Reached(NamedTuple):
    """Point at which a curve reaches a log loss."""

    samples: float
    seconds: float


def summarize(study: Study) -> Comparison:
    """Summarize the runs of a comparison.

    Args:
        study: all runs.

    Returns:
        Means of each entrant, differences of each pair, settings, and versions.
    """
    finals: _Finals = {
        contender.name: {run.config.seed: run.result for run in contender.finals if run.result is not None}
        for contender in study.contenders
    }
    judged = [run.judged_logloss for contender in study.contenders for run in contender.trials]
    best = min((logloss for logloss in judged if logloss is not None), default=None)
    target = _mean_by_name(run.summary.val for run in finals[study.contenders[0].name].values()).get(
        "logloss"
    )
    split = study.data.split
    return Comparison(
        config=study.config,
        samples={"train": len(split.train), "val": len(split.val), "test": len(split.test)},
        optimizers={
            contender.name: _entrant(study.config, contender, finals[contender.name], best, target)
            for contender in study.contenders
        },
        target_val_logloss=target,
        differences=_differences(study.config, finals),
        bands=_bands(study, finals),
        best_trial_logloss=best,
        bayes=_bayes(finals),
        environment=environment(),
    )


def runs_table(study: Study) -> pd.DataFrame:
    """Return a table with one line per run. Trials have no test metrics, because only final runs use the test samples."""
    records: list[dict[str, Any]] = []
    for contender in study.contenders:
        for search, tuned in enumerate(contender.searches):
            for kind, runs in (("trial", tuned.trials), ("final", tuned.finals)):
                parts = ("val",) if kind == "trial" else ("val", *PARTS)
                for number, run in enumerate(runs):
                    named = {"optimizer": contender.name, "search": search, "kind": kind, "number": number}
                    model = {"model": run.config.model.name} if study.config.models else {}
                    record = {**named, **model, **_record(run, parts)}
                    if kind == "final" and contender.step_ms_apart is not None:
                        record["step_ms_apart"] = contender.step_ms_apart
                    records.append(record)
    return pd.DataFrame.from_records(records)


def _record(run: Run, parts: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "seed": run.config.seed,
        "diverged": run.summary is None,
        "judged_logloss": run.judged_logloss,
        "folder": run.folder.name,
        **run.drawn,
    }
    if run.summary is None:
        return record
    for part in parts:
        found = getattr(run.summary, part)
        record.update({f"{part}_{metric}": getattr(found, metric) for metric in METRICS})
    record["seconds"] = run.summary.train.seconds
    record["step_ms_median"] = run.summary.train.step_ms_median
    return record


def _entrant(
    config: CompareConfig,
    contender: Contender,
    finals: Mapping[int, RunResult],
    best: float | None,
    target: float | None,
) -> EntrantResult:
    summaries = [run.summary for run in finals.values()]
    curves = [run.curve for run in contender.finals if run.summary is not None]
    return EntrantResult(
        settings=settings_of(config, contender.finals[0].config),
        curvature_of=summaries[0].curvature_of if summaries else None,
        searches=[_choice(search) for search in contender.searches if search.trials],
        final_runs=len(contender.finals),
        final_runs_diverged=len(contender.finals) - len(finals),
        val=_mean_by_name(summary.val for summary in summaries),
        progressive=_mean_by_name(summary.progressive for summary in summaries),
        test=_mean_by_name(summary.test for summary in summaries),
        train={**_mean_by_name(summary.train for summary in summaries), **_apart(contender)},
        trials=_trials(contender.trials, best),
        curves=curves,
        time_to_target=None if target is None else _median_time(curves, target),
    )


def _apart(contender: Contender) -> Means:
    return {} if contender.step_ms_apart is None else {"step_ms_apart": contender.step_ms_apart}


def _choice(search: SearchResult) -> Choice:
    best = best_of(search.trials)
    return Choice(
        seed=best.config.seed,
        chosen=search.chosen,
        at_an_edge=at_an_edge(best.config, search.chosen),
        judged_logloss=best.judged_logloss,
    )


def _mean_by_name(found: Iterable[Any]) -> Means:
    """Return the mean over seeds of each field of a dataclass, without fields that are undefined for a seed."""
    seeds = [asdict(each) for each in found]
    values = {name: [seed[name] for seed in seeds] for name in (seeds[0] if seeds else ())}
    return {name: statistics.fmean(each) for name, each in values.items() if None not in each}


def _trials(trials: Sequence[Run], best: float | None) -> Trials | None:
    """Return the quality of the trials; None without trials."""
    if not trials:
        return None
    finite = [run.judged_logloss for run in trials if run.judged_logloss is not None]
    return Trials(
        count=len(trials),
        diverged=len(trials) - len(finite),
        near_best=sum(value <= best + NEAR_BEST for value in finite) if best is not None else 0,
        best_logloss=best_of(trials).judged_logloss,
        median_logloss=statistics.median(finite) if finite else None,
    )


def time_to(curve: Sequence[CurvePoint], target: float) -> Reached | None:
    """Return the samples and seconds at which a curve first reaches a log loss.

    Args:
        curve: points in order.
        target: log loss to reach.

    Returns:
        Samples and seconds, interpolated linearly between points; None if the curve never reaches it.
    """
    before: CurvePoint | None = None
    for point in curve:
        if point.logloss <= target:
            if before is None:
                return Reached(point.samples, point.seconds)
            share = (before.logloss - target) / (before.logloss - point.logloss)
            return Reached(
                before.samples + share * (point.samples - before.samples),
                before.seconds + share * (point.seconds - before.seconds),
            )
        before = point
    return None


def _median_time(curves: Sequence[Sequence[CurvePoint]], target: float) -> TimeToTarget:
    """Return the number of seeds that reach the target, and the medians over them."""
    times = [time for curve in curves if (time := time_to(curve, target)) is not None]
    if not times:
        return TimeToTarget(reached=0, of=len(curves))
    samples, seconds = (statistics.median(values) for values in zip(*times, strict=True))
    return TimeToTarget(reached=len(times), of=len(curves), samples=samples, seconds=seconds)


def _differences(config: CompareConfig, finals: _Finals) -> list[PairDifference]:
    """Compare each entrant with those before it. Holm's method adjusts the p values of the log loss over all pairs."""
    found: list[PairDifference] = []
    for part in PARTS:
        pairs = [
            (ours, against, difference)
            for against, ours in combinations(finals, 2)
            if (difference := _difference(config, finals[ours], finals[against], part)) is not None
        ]
        adjusted = holm([difference.logloss.p_value for *_, difference in pairs])
        found += [
            PairDifference(
                optimizer=ours,
                against=against,
                part=part,
                difference=difference,
                p_adjusted=p_adjusted,
                minimum_detectable_logloss=minimum_detectable(difference.logloss),
            )
            for (ours, against, difference), p_adjusted in zip(pairs, adjusted, strict=True)
        ]
    return found


def _difference(
    config: CompareConfig, ours: Mapping[int, RunResult], theirs: Mapping[int, RunResult], part: Part
) -> CrossedDifference | None:
    """Return ours minus theirs over the seeds that both finished; None without such seeds or if their samples differ."""
    common = ours.keys() & theirs.keys()
    by_search = [[seed for seed in config.seeds_of(k) if seed in common] for k in range(config.searches)]
    seeds = [seed for of_search in by_search for seed in of_search]
    if not seeds:
        return None
    labels = getattr(ours[seeds[0]], part).labels
    if any(
        not np.array_equal(getattr(run[seed], part).labels, labels)
        for run in (ours, theirs)
        for seed in seeds
    ):
        return None  # with shuffled data, each seed has other progressive samples
    return crossed_difference(
        labels,
        _predictions(ours, seeds, part),
        _predictions(theirs, seeds, part),
        weights=getattr(ours[seeds[0]], part).weights,
        runs_of_searches=[len(found) for found in by_search if found] if config.searches > 1 else None,
    )


def _predictions(
    runs: Mapping[int, RunResult], seeds: Sequence[int], part: Part
) -> Iterator[npt.NDArray[np.float32]]:
    return (getattr(runs[seed], part).probability for seed in seeds)


def _bands(study: Study, finals: _Finals) -> TokenBands | None:
    """Return the differences in log loss from the reference by token frequency, and the curvature of each model."""
    first, *others = finals
    common = {name: sorted(finals[name].keys() & finals[first].keys()) for name in others}
    pairs = {name: seeds for name, seeds in common.items() if seeds}
    if study.config.data.order != "time" or not pairs or not study.data.preprocessing.schema.tokens:
        return None
    samples = np.arange(study.data.split.days[1], study.data.split.train.stop)
    samples = samples[reported_samples(len(samples), study.config.select, study.config.batch_size)]
    bands = bands_of_samples(study.data, band_of_ids(study.data), samples)
    labels = np.asarray(study.data.labels[samples])
    weights = study.data.population_weights(samples)
    return TokenBands(
        names=BANDS,
        tokens=np.bincount(bands.reshape(-1), minlength=len(BANDS)).tolist(),
        logloss={
            name: logloss_by_band(
                bands,
                labels,
                _predictions(finals[name], seeds, "progressive"),
                _predictions(finals[first], seeds, "progressive"),
                weights,
            )
            for name, seeds in pairs.items()
        },
        curvature={
            contender.name: contender.finals[0].curvature
            for contender in study.contenders
            if contender.finals[0].summary is not None
        },
    )


def _bayes(finals: _Finals) -> BinaryMetrics | None:
    return next((run.summary.bayes for runs in finals.values() for run in runs.values()), None)
