# pyright: basic
"""Score samples with one model or several, or take predictions of before, and say how good they are.

Models are named after their runs; the first one is the reference that later ones are compared with, sample by sample.
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

_BLOCK = 16 * SCORING_BATCH  # samples scored and written at once

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found, and of which predictions, those of all models."""

    summary: EvaluationSummary
    predictions: Predictions


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions with what is known of their making; slicings have a code for each sample."""

    predictions: Predictions
    codes: Mapping[Slicing, npt.NDArray[np.int32]]
    rejected: Sequence[int]
    sources: Sequence[Source]  # of the first models; those after them are predictions of before
    seconds: float  # of reading, scoring and writing
    trained_on: Sequence[str] = ()  # names of models, by some of the samples
    calibrated_on: Sequence[str] = ()  # likewise


def evaluate(request: EvaluationRequest) -> Evaluation:
    """Score samples, or take predictions of before, and find the figures over the samples with a label.

    Args:
        request: what is asked for.

    Returns:
        Figures and predictions.
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
    """Score the samples of a pipe as they come, a probability each.

    Args:
        run: a run directory, or a checkpoint in it.
        file: samples as text of the run's format, with labels or without, which the first line says.
        best: use the checkpoint of the best validation even where the run did not stop early.
        calibrated: predict with the calibration of the run.

    Yields:
        The probabilities in the order of the samples, (n,) each; the first row that is no sample ends it with a `DataError`.

    Raises:
        UsageError: the run's format is none that comes as text.
    """
    device = find_device("auto")
    with init_process_group(device):
        model = open_trained(run, device, best=best, calibrated=calibrated)
        schema = model.preprocessing.schema
        if schema.format == "parquet":
            raise UsageError(
                f"--stdin reads text row by row, and the schema of {run} says parquet, whose end says what is in it; name a "
                "file of rows with --data-path"
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
    """Score the samples of a request that was checked.

    Args:
        request: what is asked for.
        models: of its runs.

    Returns:
        The predictions.

    Raises:
        UsageError: the request is of unseen samples, and a run was trained on some of them.
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
                f"the rows must be new to the run, and {', '.join(trained_on)} was trained on some of "
                f"{', '.join(request.data)}; name later rows with --data-path, or those that were kept apart with --part val"
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
        rows: whose blocks hold features for each of the fingerprints.
        models: score them.
        fingerprints: of the samples that the models were trained on, each once.
        cuts: slicings.
        file: takes the predictions.

    Returns:
        Labels, file, the predictions of each model, the codes of each slicing that reads columns, and weights where rows
        have them, (N,) each.

    Raises:
        DataError: there is no good sample.
    """
    place = {fingerprint: place for place, fingerprint in enumerate(fingerprints)}
    kept: list[list[npt.NDArray[Any]]] = []
    with progress_bar("evaluate", unit=" rows") as bar:
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
        raise DataError("the input must hold rows, and has none; give more rows")
    return [np.concatenate(column) for column in zip(*kept, strict=True)]


def summarized(predictions: Predictions, found: Scored, out: Path | None = None) -> EvaluationSummary:
    """Return the figures of predictions.

    Args:
        predictions: of all models.
        found: how those of the first models were made.
        out: the file that they were written to.

    Returns:
        Figures over the samples with a label.

    Raises:
        DataError: no sample with a label has weight.
    """
    labelled = predictions.labelled
    weights = labelled.weights
    if weights is not None and len(weights) and not weights.any():
        raise DataError(
            f"figures need labelled rows with weight, and all {len(weights):,} have weight 0; give some of them a weight"
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
