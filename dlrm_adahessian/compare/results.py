# pyright: basic
"""From finished runs to figures: means, differences with intervals, robustness, time to a given quality."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from dlrm_adahessian.compare.bands import BANDS, band_of_ids, bands_of_rows, logloss_by_band
from dlrm_adahessian.compare.config import settings_of
from dlrm_adahessian.compare.selection import reported, reported_rows
from dlrm_adahessian.compare.study import Contender, Run, Study, best_of, fitted_run
from dlrm_adahessian.compare.worker import CURVATURE
from dlrm_adahessian.runs.run_directory import RunDirectory, environment
from dlrm_adahessian.runs.sealed import read_json
from dlrm_adahessian.statistics.crossed import CrossedDifference, crossed_difference
from dlrm_adahessian.statistics.multiplicity import holm
from dlrm_adahessian.statistics.power import minimum_detectable
from dlrm_adahessian.train.results import RunResult

METRICS = ("auc", "accuracy", "logloss")
Part = Literal["progressive", "test"]
PARTS: tuple[Part, ...] = ("progressive", "test")
NEAR_BEST = 0.001
"""Log loss within which a draw counts as near the best one of all optimizers."""


def summarize(study: Study) -> dict[str, Any]:
    """Return what summary.json holds.

    Args:
        study: all its runs.

    Returns:
        JSON values: `optimizers` by name, `differences` of each pair, settings, versions.
    """
    finals = {contender.name: _finals(study, contender) for contender in study.contenders}
    best = _best_draw(study)
    data = study.data
    optimizers = {
        contender.name: _optimizer(contender, finals[contender.name], best) for contender in study.contenders
    }
    target = optimizers[study.config.names[0]]["val"].get("logloss")
    for found in optimizers.values():
        found["time_to_target"] = _median_time(found["curve"], target)
    return {
        "dataset": study.config.dataset,
        "rows": {part: len(getattr(data.split, part)) for part in ("train", "val", "test")},
        "seeds": study.config.seeds,
        "trials": study.config.trials,
        "trial_rows": study.config.trial_rows,
        "sampler": study.config.sampler,
        "select": study.config.select,
        "batch_size": study.config.batch_size,
        "epochs": study.config.epochs,
        "parallel": study.config.parallel,
        "optimizers": optimizers,
        "target_val_logloss": target,
        "differences": _differences(finals),
        "bands": _bands(study, finals),
        "best_draw_logloss": best,
        "bayes": _bayes(finals),
        "environment": environment(),
    }


def runs_table(study: Study) -> pd.DataFrame:
    """Return a row per run; draws have no test figures, since those are looked at in final runs only."""
    records: list[dict[str, Any]] = []
    for contender in study.contenders:
        for kind, runs in (("trial", contender.trials), ("final", contender.finals)):
            for number, run in enumerate(runs):
                record = {"optimizer": contender.name, "kind": kind, "number": number}
                records.append(
                    {**record, **_record(study, run, ("val",) if kind == "trial" else ("val", *PARTS))}
                )
    return pd.DataFrame.from_records(records)


def _record(study: Study, run: Run, parts: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "seed": run.config.seed,
        "diverged": run.judged_logloss is None,
        "judged_logloss": run.judged_logloss,
        "folder": run.folder.name,
        **run.drawn,
    }
    if run.judged_logloss is None:
        return record
    summary = _fitted(study, run).summary.asdict()
    for part in parts:
        record.update({f"{part}_{metric}": summary[part][metric] for metric in METRICS})
    record["seconds"] = summary["train"]["seconds"]
    record["step_ms_median"] = summary["train"]["step_ms_median"]
    return record


def _finals(study: Study, contender: Contender) -> dict[int, RunResult]:
    """Return the final runs that did not diverge, by seed."""
    return {
        run.config.seed: _fitted(study, run) for run in contender.finals if run.judged_logloss is not None
    }


def _fitted(study: Study, run: Run) -> RunResult:
    """Return a finished run as far as the report may look at it."""
    fitted = fitted_run(run.config, study.data, RunDirectory(run.folder))
    return reported(fitted, study.config.select, study.config.batch_size)


def _optimizer(contender: Contender, finals: Mapping[int, RunResult], best: float | None) -> dict[str, Any]:
    summaries = [fitted.summary.asdict() for fitted in finals.values()]
    return {
        "settings": settings_of(contender.finals[0].config),
        "chosen": contender.chosen,
        "final_runs": len(contender.finals),
        "final_runs_diverged": len(contender.finals) - len(finals),
        **{part: _means(summaries, part) for part in ("val", *PARTS)},
        "train": _means(summaries, "train"),
        "draws": _draws(contender.trials, best),
        "curve": [_curve(run) for run in contender.finals if run.judged_logloss is not None],
    }


def _means(summaries: Sequence[Mapping[str, Any]], part: str) -> dict[str, float | None]:
    """Return the mean over seeds of each figure of a part."""
    keys = summaries[0][part] if summaries else ()
    values = {key: [summary[part][key] for summary in summaries] for key in keys}
    return {
        key: statistics.fmean(found)
        for key, found in values.items()
        if all(isinstance(value, int | float) for value in found)
    }


def _draws(trials: Sequence[Run], best: float | None) -> dict[str, Any] | None:
    """Return how good the draws were, or None without any."""
    if not trials:
        return None
    finite = [run.judged_logloss for run in trials if run.judged_logloss is not None]
    return {
        "count": len(trials),
        "diverged": len(trials) - len(finite),
        "near_best": sum(value <= best + NEAR_BEST for value in finite) if best is not None else 0,
        "best_logloss": best_of(trials).judged_logloss,
        "median_logloss": statistics.median(finite) if finite else None,
    }


def _best_draw(study: Study) -> float | None:
    finite = [
        run.judged_logloss
        for contender in study.contenders
        for run in contender.trials
        if run.judged_logloss is not None
    ]
    return min(finite, default=None)


def _curve(run: Run) -> list[dict[str, float]]:
    """Return log loss on validation rows by samples and by seconds of training."""
    points: list[dict[str, float]] = []
    for line in RunDirectory(run.folder).metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if "val" in record:
            points.append(
                {
                    "samples": record["step"] * run.config.batch_size,
                    "seconds": record["timing"]["seconds"],
                    "logloss": record["val"]["logloss"],
                }
            )
    return points


def time_to(curve: Sequence[Mapping[str, float]], target: float) -> dict[str, float] | None:
    """Return the samples and seconds at which a curve first reaches a log loss.

    Args:
        curve: points with `samples`, `seconds` and `logloss`, in order.
        target: the log loss.

    Returns:
        `samples` and `seconds`, linear between the points around; None when it is never reached.
    """
    before: Mapping[str, float] | None = None
    for point in curve:
        if point["logloss"] <= target:
            if before is None:
                return {key: point[key] for key in ("samples", "seconds")}
            share = (before["logloss"] - target) / (before["logloss"] - point["logloss"])
            return {key: before[key] + share * (point[key] - before[key]) for key in ("samples", "seconds")}
        before = point
    return None


def _median_time(
    curves: Sequence[Sequence[Mapping[str, float]]], target: float | None
) -> dict[str, Any] | None:
    """Return the medians over the seeds that reach the target, and how many do."""
    if target is None:
        return None
    times = [time for curve in curves if (time := time_to(curve, target)) is not None]
    medians = {key: statistics.median(time[key] for time in times) for key in times[0]} if times else {}
    return {"reached": len(times), "of": len(curves), **medians}


def _differences(finals: Mapping[str, Mapping[int, RunResult]]) -> list[dict[str, Any]]:
    """Compare each optimizer with those before it; Holm's adjustment is over the pairs, on the log loss."""
    found: list[dict[str, Any]] = []
    for part in PARTS:
        pairs = [
            (ours, against, difference)
            for against, ours in combinations(finals, 2)
            if (difference := _difference(finals[ours], finals[against], part)) is not None
        ]
        adjusted = holm([difference.logloss.p_value for *_, difference in pairs])
        for (ours, against, difference), p_adjusted in zip(pairs, adjusted, strict=True):
            found.append(
                {
                    "optimizer": ours,
                    "against": against,
                    **difference.asdict(),
                    "row_count": difference.rows,
                    "rows": part,
                    "p_adjusted": p_adjusted,
                    "minimum_detectable_logloss": minimum_detectable(difference.logloss),
                }
            )
    return found


def _difference(
    ours: Mapping[int, RunResult], theirs: Mapping[int, RunResult], part: Part
) -> CrossedDifference | None:
    """Return ours minus theirs over the seeds that both finished; None without any, or without the same rows."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    labels = getattr(ours[seeds[0]], part)[0]
    if any(
        not np.array_equal(getattr(run[seed], part)[0], labels) for run in (ours, theirs) for seed in seeds
    ):
        return None  # rows in shuffled order: each seed predicts others first
    return crossed_difference(labels, _predictions(ours, seeds, part), _predictions(theirs, seeds, part))


def _predictions(
    runs: Mapping[int, RunResult], seeds: Sequence[int], part: Part
) -> Iterator[npt.NDArray[np.float32]]:
    return (getattr(runs[seed], part)[1] for seed in seeds)


def _bands(study: Study, finals: Mapping[str, Mapping[int, RunResult]]) -> dict[str, Any] | None:
    """Return differences of log loss to the first optimizer by band of token, and the curvature of each model."""
    names = list(finals)
    rows = np.arange(study.data.split.days[1], study.data.split.train.stop)
    rows = rows[reported_rows(len(rows), study.config.select, study.config.batch_size)]
    pairs = {name: sorted(finals[name].keys() & finals[names[0]].keys()) for name in names[1:]}
    if study.config.data.order != "time" or not any(pairs.values()):
        return None
    bands = bands_of_rows(study.data, band_of_ids(study.data), rows)
    labels = np.asarray(study.data.labels[rows])
    found: dict[str, Any] = {
        "names": BANDS,
        "tokens": np.bincount(bands.reshape(-1), minlength=len(BANDS)).tolist(),
    }
    for name, seeds in pairs.items():
        ours, theirs = ([finals[n][seed].progressive[1] for seed in seeds] for n in (name, names[0]))
        estimates = logloss_by_band(bands, labels, ours, theirs)
        found[name] = [
            {"logloss": e.estimate, "logloss_ci95": e.ci95} if e is not None else None for e in estimates
        ]
    found["curvature"] = {
        contender.name: read_json(path)
        for contender in study.contenders
        if (path := contender.finals[0].folder / CURVATURE).exists()
    }
    return found


def _bayes(finals: Mapping[str, Mapping[int, RunResult]]) -> dict[str, Any] | None:
    for runs in finals.values():
        for fitted in runs.values():
            return fitted.summary.asdict().get("bayes")
    return None
