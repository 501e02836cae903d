"""Provide results of `train` and `evaluate` for the tests of their output."""

from pathlib import Path

import numpy as np

from dlrm_adahessian.evaluation.figures import differences, model_figures, slice_figures
from dlrm_adahessian.evaluation.results import EvaluationSummary, FileCounts, SlicingFigures, Source
from dlrm_adahessian.evaluation.slices import Slice
from dlrm_adahessian.metrics.binary import binary_metrics
from dlrm_adahessian.statistics.comparison import compare_predictions
from dlrm_adahessian.train.results import RunSummary, SampleCounts, TrainingCost
from dlrm_adahessian.train.with_baseline import JobResult

LABELS = np.array([0, 1, 0, 1, 1, 0], np.int8)
OURS = np.array([0.2, 0.9, 0.4, 0.7, 0.4, 0.1], np.float32)
THEIRS = np.array([0.6, 0.6, 0.4, 0.5, 0.6, 0.3], np.float32)


def ran(optimizer, probability, labels):
    found = binary_metrics(labels, probability)
    return RunSummary(
        dataset="x",
        optimizer=optimizer,
        curvature="none",
        seed=0,
        world_size=1,
        device="cpu",
        batch_size=2,
        resumed_from_step=0,
        skipped_steps=0,
        rollbacks=0,
        rows=SampleCounts(train=6, val=6, test=6, rejected=0),
        progressive=found,
        val=found,
        test=found,
        train=TrainingCost(
            steps=3, samples=6, model_mib=1.0, seconds=1.0, samples_per_second=1234.5, step_ms_median=0.8
        ),
    )


def job(*, progressive=True, labels=LABELS, ours=OURS, theirs=THEIRS):
    difference = compare_predictions(labels, ours, theirs)
    return JobResult(
        folder=Path("run"),
        run=ran("hybrid", ours, labels),
        baseline=ran("adagrad", theirs, labels),
        difference=difference,
        progressive_difference=difference if progressive else None,
    )


def summary():
    scored = {"hybrid": OURS, "adagrad": THEIRS}
    source = Source(run="runs/hybrid", checkpoint="step-3", column="probability")
    cuts = [Slice("day 1", np.arange(5)), Slice("day 2", np.array([5]))]
    return EvaluationSummary(
        samples=6,
        labelled=6,
        models=[
            model_figures("hybrid", source, LABELS, OURS),
            model_figures("adagrad", None, LABELS, THEIRS),
        ],
        differences=differences(LABELS, scored),
        slicings=[
            SlicingFigures(name="day", about="seventh", slices=slice_figures(LABELS, scored, cuts)),
        ],
        files=[FileCounts(name=name, samples=3, rejected=0) for name in ("a", "b")],
        seconds=2.0,
        predictions=Path("p.parquet"),
    )
