# pyright: basic
"""A run of a comparison, and what the report reads of a finished one: predictions, curve, curvature."""

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
        config: of the run.
        folder: where it is.
        drawn: hyper-parameters that differ from the preset, by path below `optim`.
        judged_logloss: by which trials are chosen; None when it diverged.
        summary: its results, of the progressive validation as far as they may be reported; None when it diverged.
        result: of a final run, its predictions too.
        curve: of a final run, its log loss on validation samples.
        curvature: of a final run, where it was measured.
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
        """Return the run with what a worker says of it; of a trial that is all."""
        return replace(self, judged_logloss=judged.logloss, summary=judged.summary)

    def as_final(self, data: PreparedData, select: Select) -> "Run":
        """Return the run with all that the report may look at, unless it diverged.

        Args:
            data: its samples.
            select: the samples that chose among trials.

        Returns:
            The run; its files are verified as they are read.

        Raises:
            CheckpointError: they changed since the worker left them.
        """
        if self.summary is None:
            return self
        try:
            sealed = FinishedRun.open(self.folder, self.config.fingerprint(data.fingerprint))
            result = reported(result_of(self.config, data, sealed), select, self.config.batch_size)
            lines = sealed.read(METRICS).splitlines()
            curvature = sealed.read_json(CURVATURE) if CURVATURE in sealed.files else None
        except DamagedFolderError as error:
            raise CheckpointError(
                f"{error}; start the comparison again, which trains this run anew"
            ) from error
        return replace(
            self,
            summary=result.summary,
            result=result,
            curve=_curve(map(json.loads, lines), self.config.batch_size),
            curvature=curvature and CurvatureByBand(**curvature),
        )


def _curve(records: Iterable[Mapping[str, Any]], batch_size: int) -> list[CurvePoint]:
    """Return log loss on validation samples by samples and by seconds of training."""
    return [
        CurvePoint(
            samples=record["step"] * batch_size,
            seconds=record["timing"]["seconds"],
            logloss=record["val"]["logloss"],
        )
        for record in records
        if "val" in record
    ]
