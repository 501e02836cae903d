# pyright: basic
"""Score lines as they come: rows in, a probability a line out."""

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dlrm_adahessian.data.criteo.bad_lines import BadLines
from dlrm_adahessian.data.criteo.reader import read_rows
from dlrm_adahessian.data.schema import dense_features
from dlrm_adahessian.data.text.sources import live_source
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.evaluation.trained_model import open_trained
from dlrm_adahessian.runtime.device import find_device


def score_lines(run: Path, file: BufferedReader, *, best: bool) -> Iterator[npt.NDArray[np.float32]]:
    """Score the rows of a pipe, those that have come at a time.

    Args:
        run: a run directory, or a checkpoint in it.
        file: rows as text, with labels or without, which the first line says.
        best: use the checkpoint of the best validation even where the run did not stop early.

    Yields:
        The probabilities of rows in their order, (n,) each; the first line that is no row ends it with a `DataError`.
    """
    device = find_device("auto")
    with init_process_group(device):
        model = open_trained(run, device, best=best)
        encoder = model.vocabulary.encoder()
        for rows in read_rows(live_source(file), BadLines(), labels="optional"):
            ids = encoder.encode(rows.tokens, rows.missing)
            yield model.score(dense_features(rows.integers), ids)
