# pyright: basic
"""Score samples with one or several models, or read saved predictions, and compute their metrics.

Models are named after their runs. The first one is the reference, with which the others are compared sample by sample.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BufferedReader
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.raw import RowReader, rejects_name
from dlrm_adahessian.data.text.bad_lines import BadLines
from dlrm_adahessian.data.text.sources import live_source
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.evaluation.figures import differences, model_figures, slice_figures
from dlrm_adahessian.evaluation.predictions import (
    PredictionFile,
    Predictions,
    column_of,
    read_predictions,
    unique_names,
    writing,
)
from dlrm_adahessian.evaluation.request import EvaluationRequest
from dlrm_adahessian.evaluation.results import EvaluationSummary, FileCounts, SlicingFigures, Source
from dlrm_adahessian.evaluation.rows import PreparedRows, RawRows, holds_training_rows, open_rows, regrouped
from dlrm_adahessian.evaluation.slices import Slicing, check_slices, cut, of_predictions, of_rows
from dlrm_adahessian.evaluation.trained_model import TrainedModel, open_trained
from dlrm_adahessian.runtime.device import find_device
from dlrm_adahessian.runtime.terminal import printable_name, progress_bar
from dlrm_adahessian.train.state import SCORING_BATCH

_BLOCK = 16 * SCORING_BATCH  # samples scored and written together

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The summary of an evaluation, and the predictions of all models."""

    summary: EvaluationSummary
    predictions: Predictions


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions and how they were made. Slicings have a code for each sample."""

    predictions: Predictions
    codes: Mapping[Slicing, npt.NDArray[np.int32]]
    rejected: Sequence[int]
    sources: Sequence[Source]  # for the first models; the remaining ones are saved predictions
    seconds: float  # for reading, scoring, and writing
    trained_on: Sequence[str] = ()  # names of models that were trained on some of the samples
    calibrated_on: Sequence[str] = ()  # names of models that were calibrated on some of the samples


def evaluate(request: EvaluationRequest) -> Evaluation:
    """Score samples, or read saved predictions, and compute metrics of the labeled samples.

    Args:
        request: the requested evaluation.

    Returns:
        Metrics and predictions.
    """
    stored = request.check()
    others = [read_predictions([path]) for path in request.against]
    found = _stored(request) if stored else _scored(request)
    predictions = found.predictions
    for other in others:
        predictions = predictions.and_by(other)
    summary = summarized(predictions, found, request.out)
    for caution in summary.cautions:
        logger.warning("%s", caution)
    return Evaluation(summary=summary, predictions=predictions)


def score_lines(
    run: Path, file: BufferedReader, *, best: bool, calibrated: bool = False
) -> Iterator[npt.NDArray[np.float32]]:
    """Score samples from a pipe as they arrive, one probability each.

    Args:
        run: run directory, or a checkpoint in it.
        file: text in the run's format. The first line determines whether there are labels.
        best: use the checkpoint of the best validation, even if the run did not stop early.
        calibrated: apply the run's calibration.

    Yields:
        Probabilities in the order of the samples, (n,) each. The first invalid line ends them with a `DataError`.

    Raises:
        UsageError: the run's format is not text.
    """
    device = find_device("auto")
    with init_process_group(device):
        model = open_trained(run, device, best=best, calibrated=calibrated)
        schema = model.preprocessing.schema
        if schema.format == "parquet":
            raise UsageError(
                f"--stdin reads text line by line, but the schema of {run} is parquet, which cannot be read before its end. "
                "Pass a file with --data-path."
            )
        reader = RowReader(schema, BadLines(), "optional")
        for rows in reader.read(live_source(file)):
            yield model.score(model.preprocessing.features(rows))


def _stored(request: EvaluationRequest) -> Scored:
    began = time.perf_counter()
    predictions = read_predictions(request.data)
    cuts = [of_predictions(name, predictions.files) for name in dict.fromkeys(request.slices)]
    return Scored(
        predictions=predictions,
        codes={slicing: slicing.of_all(predictions) for slicing in cuts if slicing.of_all},
        rejected=[0] * len(request.data),
        sources=[],
        seconds=time.perf_counter() - began,
    )


def _scored(request: EvaluationRequest) -> Scored:
    device = find_device("auto")
    with init_process_group(device):
        models = [
            open_trained(path, device, best=request.best, calibrated=request.calibrated)
            for path in request.runs
        ]
        return score(request, models)


def score(request: EvaluationRequest, models: Sequence[TrainedModel]) -> Scored:
    """Score the samples of a validated request.

    Args:
        request: the requested evaluation.
        models: models of its runs.

    Returns:
        The predictions.

    Raises:
        UsageError: the request requires unseen samples, but a run was trained on some of them.
    """
    out = request.out
    names = unique_names(printable_name(model.name) for model in models)
    with ExitStack() as stack:
        check_slices(request.slices, models[0].preprocessing.schema)
        preprocessings = {model.rows_fingerprint: model.preprocessing for model in models}
        rejects = rejects_name(models[0].preprocessing.schema)
        bad_lines = BadLines(
            out.with_name(f"{out.name}.{rejects}") if out and request.bad_rows == "quarantine" else None
        )
        stack.callback(bad_lines.close)
        rows = open_rows(
            request.data,
            part=request.part,
            bad_lines=bad_lines,
            preprocessings=preprocessings,
            origins=[model.origin for model in models],
        )
        trained_on = [
            name
            for name, model in zip(names, models, strict=True)
            if holds_training_rows(request.data, request.part, model.origin)
        ]
        if trained_on and request.unseen:
            raise UsageError(
                f"{', '.join(trained_on)} was trained on some samples of {', '.join(request.data)}, but this command "
                "requires new ones. Pass later data with --data-path, or use the held-out samples with --part val."
            )
        cuts = [of_rows(name, rows.files, models[0].preprocessing) for name in dict.fromkeys(request.slices)]
        file = stack.enter_context(writing(out, len(models), weighted=rows.weighted))
        began = time.perf_counter()
        columns = _columns(rows, models, list(preprocessings), cuts, file)
        seconds = time.perf_counter() - began
    labels, origin, *rest = columns
    weights = rest.pop() if rows.weighted else None
    predictions = Predictions(
        labels=labels,
        scored=dict(zip(names, rest, strict=False)),
        file=origin,
        files=rows.files,
        first_row=rows.first_row,
        all_rows=rows.all_rows,
        weights=weights,
    )
    of_blocks = dict(zip((each for each in cuts if each.of_block), rest[len(models) :], strict=True))
    return Scored(
        predictions=predictions,
        codes={each: each.of_all(predictions) if each.of_all else of_blocks[each] for each in cuts},
        rejected=rows.rejected,
        sources=[
            Source(
                run=printable_name(str(path)),
                checkpoint=model.checkpoint.path.name,
                column=column_of(place),
                calibration=model.calibration and model.calibration.method,
            )
            for place, (path, model) in enumerate(zip(request.runs, models, strict=True))
        ],
        seconds=seconds,
        trained_on=trained_on,
        calibrated_on=[
            name
            for name, model in zip(names, models, strict=True)
            if model.is_calibrated_on(request.data, request.part)
        ],
    )


def _columns(
    rows: PreparedRows | RawRows,
    models: Sequence[TrainedModel],
    fingerprints: Sequence[str],
    cuts: Sequence[Slicing],
    file: PredictionFile | None,
) -> list[npt.NDArray[Any]]:
    """Read and score all samples.

    Args:
        rows: data whose blocks contain features for each of the fingerprints.
        models: models that score them.
        fingerprints: fingerprints of the models' training data, each once.
        cuts: slicings.
        file: file for the predictions.

    Returns:
        Labels, file indices, the predictions of each model, the codes of each slicing that reads columns, and weights if the
        samples have them, (N,) each.

    Raises:
        DataError: there is no valid sample.
    """
    place = {fingerprint: place for place, fingerprint in enumerate(fingerprints)}
    kept: list[list[npt.NDArray[Any]]] = []
    with progress_bar("evaluate", unit=" samples") as bar:
        for block in regrouped(rows.blocks(_BLOCK), _BLOCK):
            scored = [model.score(block.features[place[model.rows_fingerprint]]) for model in models]
            weights = [] if block.weights is None else [block.weights]
            if file is not None:
                file.write(block.labels, scored, *weights)
            coded = (each.of_block(block) for each in cuts if each.of_block)
            kept.append([block.labels, block.file, *scored, *coded, *weights])
            done = rows.done()
            bar.set_postfix_str("" if done is None else f"{done:.0%}", refresh=False)
            bar.update(len(block))
    if not kept:
        raise DataError("The input has no samples. Provide more data.")
    return [np.concatenate(column) for column in zip(*kept, strict=True)]


def summarized(predictions: Predictions, found: Scored, out: Path | None = None) -> EvaluationSummary:
    """Return the metrics of predictions.

    Args:
        predictions: predictions of all models.
        found: how those of the first models were made.
        out: file that they were written to.

    Returns:
        Metrics of the labeled samples.

    Raises:
        DataError: all labeled samples have weight 0.
    """
    labelled = predictions.labelled
    weights = labelled.weights
    if weights is not None and len(weights) and not weights.any():
        raise DataError(
            f"All {len(weights):,} labeled samples have weight 0. Give some of them a positive weight."
        )
    counts = np.bincount(predictions.file, minlength=len(predictions.files)).tolist()
    return EvaluationSummary(
        samples=len(predictions.labels),
        labelled=len(labelled.labels),
        models=[
            model_figures(name, source, labelled.labels, probability, weights)
            for (name, probability), source in zip_longest(labelled.scored.items(), found.sources)
        ],
        differences=differences(labelled.labels, labelled.scored, weights) if len(labelled.labels) else [],
        slicings=[
            SlicingFigures(
                name=each.name,
                about=each.about,
                slices=slice_figures(
                    predictions.labels, predictions.scored, cut(each, codes), predictions.weights
                ),
            )
            for each, codes in found.codes.items()
        ],
        files=[
            FileCounts(name=name, samples=count, rejected=rejected)
            for name, count, rejected in zip(predictions.files, counts, found.rejected, strict=True)
        ],
        seconds=found.seconds,
        predictions=out,
        trained_on=found.trained_on,
        calibrated_on=found.calibrated_on,
    )
