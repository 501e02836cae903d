# pyright: basic
"""Represent a run of a comparison, and read the predictions, curve and curvature of a finished one for the report."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlrm_adahessian.compare.results import CurvatureByBand, CurvePoint
from dlrm_adahessian.compare.search import Select, reported
from dlrm_adahessian.compare.worker import CURVATURE, Judged
from dlrm_adahessian.config import RunConfig
from dlrm_adahessian.data.prepared.folder import PreparedData
from dlrm_adahessian.errors import CheckpointError
from dlrm_adahessian.runs.finished import METRICS, FinishedRun
from dlrm_adahessian.runs.sealed import DamagedFolderError
from dlrm_adahessian.train.results import RunResult, RunSummary
from dlrm_adahessian.train.run_cache import result_of


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, finished or diverged.

    Attributes:
        config: configuration of the run.
        folder: run directory.
        drawn: hyper-parameters that differ from the preset, by path below `optim`.
        judged_logloss: log loss on the selection set; None if it diverged.
        summary: metrics, without progressive samples that the report may not use; None if it diverged.
        result: metrics and predictions; final runs only.
        curve: log loss on validation samples during training; final runs only.
        curvature: curvature by token frequency, if measured; final runs only.
    """

    config: RunConfig
    folder: Path
    drawn: dict[str, Any]
    judged_logloss: float | None = None
    summary: RunSummary | None = None
    result: RunResult | None = None
    curve: list[CurvePoint] = field(default_factory=list)
    curvature: CurvatureByBand | None = None

    def as_judged(self, judged: Judged) -> "Run":
        """Return the run with the results from a worker. The report needs no more of a trial."""
        return replace(self, judged_logloss=judged.logloss, summary=judged.summary)

    def as_final(self, data: PreparedData, select: Select) -> "Run":
        """Return the run with everything that the report may use, unless it diverged.

        Args:
            data: samples of the comparison.
            select: selection set.

        Returns:
            The run. Its files are verified while they are read.

        Raises:
            CheckpointError: the files have changed since the worker wrote them.
        """
        if self.summary is None:
            return self
        try:
            sealed = FinishedRun.open(self.folder, self.config.fingerprint(data.fingerprint))
            result = reported(result_of(self.config, data, sealed), select, self.config.batch_size)
            lines = sealed.read(METRICS).splitlines()
            curvature = sealed.read_json(CURVATURE) if CURVATURE in sealed.files else None
        except DamagedFolderError as error:
            raise CheckpointError(f"{error}. Run the same command again to retrain this run.") from error
        return replace(
            self,
            summary=result.summary,
            result=result,
            curve=_curve(map(json.loads, lines), self.config.batch_size),
            curvature=curvature and CurvatureByBand(**curvature),
        )


def _curve(records: Iterable[Mapping[str, Any]], batch_size: int) -> list[CurvePoint]:
    """Return the log loss on validation samples after so many samples, and seconds, of training."""
    return [
        CurvePoint(
            samples=record["step"] * batch_size,
            seconds=record["timing"]["seconds"],
            logloss=record["val"]["logloss"],
        )
        for record in records
        if "val" in record
    ]
