# pyright: basic
"""How far an exported folder's predictions are from the checkpoint's, on rows drawn over all of the tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import UNKNOWN
from dlrm_adahessian.data.rows import NO_LABEL, ColumnBlock, Features, missing_words
from dlrm_adahessian.evaluation.trained_model import TrainedModel
from dlrm_adahessian.metrics.binary import probability_from_logit
from dlrm_adahessian.serving import loader
from dlrm_adahessian.serving.rounding import RowType, rounded, unrounded
from dlrm_adahessian.train.step import SCORING_BATCH

ROWS = 1 << 16
_ABSENT = 0.1  # share of missing values, and of tokens that are drawn regardless of the vocabulary


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Absolute differences in probability over rows.

    Attributes:
        rows: how many.
        identical: of these, those without a difference.
        largest: difference to the checkpoint's prediction, rounding of the tables included.
        mean: of these differences.
        beyond_rounding: largest difference to what the checkpoint's head makes of its own rows, rounded alike.
    """

    rows: int
    identical: int
    largest: float
    mean: float
    beyond_rounding: float


def compared(trained: TrainedModel, model: loader.Model, tables: RowType, rows: int = ROWS) -> Parity:
    """Predict the same drawn rows with both, from raw values on; what the vocabularies find is compared too.

    Args:
        trained: the checkpoint's model.
        model: a loaded folder.
        tables: what its rows are rounded to.
        rows: how many.

    Returns:
        The differences.
    """
    block = drawn(trained.preprocessing, rows)
    features = trained.preprocessing.features(block)
    ours = trained.score(features)
    as_it_is = tables == "fp32" or not trained.preprocessing.schema.features
    expected = ours if as_it_is else _rounded_probabilities(trained, features, tables)
    theirs = model.probabilities(*as_tensors(block)).numpy()
    difference = np.abs(ours.astype(np.float64) - theirs)
    return Parity(
        rows=rows,
        identical=int((difference == 0).sum()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        beyond_rounding=float(np.abs(expected.astype(np.float64) - theirs).max()),
    )


def drawn(preprocessing: Preprocessing, rows: int, seed: int = 0) -> ColumnBlock:
    """Draw raw rows whose tokens lie uniformly over the rows of each table; some are missing, some unknown.

    Args:
        preprocessing: whose tokens to draw.
        rows: how many.
        seed: of the draws.

    Returns:
        The rows, without labels.
    """
    rng = np.random.default_rng(seed)
    schema, vocabulary = preprocessing.schema, preprocessing.vocabulary
    num_dense, num_tokens = len(schema.dense), len(schema.features)
    values = np.floor(np.exp(rng.uniform(0, 43, (rows, num_dense)))) - 3  # up to 2**62
    absent = rng.random((rows, num_dense + num_tokens)) < _ABSENT
    values[absent[:, :num_dense]] = 0
    tokens = rng.integers(0, 1 << 32, (rows, num_tokens), dtype=np.uint32)
    for feature, height in enumerate(preprocessing.num_rows):
        row = rng.integers(0, height, rows)
        absent[:, num_dense + feature] |= (row != UNKNOWN) & (row == vocabulary.missing[feature])
        known = (row != UNKNOWN) & (rng.random(rows) > _ABSENT)
        tokens[known, feature] = vocabulary.tokens[vocabulary.offsets[feature] + row[known] - 1]
    tokens[absent[:, num_dense:]] = 0
    return ColumnBlock(
        schema=schema,
        labels=np.full(rows, NO_LABEL, np.int8),
        values=values,
        tokens=tokens,
        missing=missing_words(absent),
    )


@torch.no_grad()
def _rounded_probabilities(
    trained: TrainedModel, features: Features, tables: RowType
) -> npt.NDArray[np.float32]:
    """Return the probabilities (N,) of the checkpoint's head on its own rows, of which only those looked up are rounded.

    So no second copy of the tables is made. A row is rounded by itself, whatever is rounded with it.
    """
    ids = torch.from_numpy(features.ids).long()
    dense = torch.from_numpy(features.dense)
    weights = trained.state.lookup.tables()
    names = trained.preprocessing.schema.features
    logits: list[torch.Tensor] = []
    for some, of_them in zip(dense.split(SCORING_BATCH), ids.split(SCORING_BATCH), strict=True):
        looked_up = [weights[name][of_them[:, feature]] for feature, name in enumerate(names)]
        pooled = torch.stack([unrounded(rounded(rows, tables)) for rows in looked_up], 1)
        logits.append(trained.state.head(some, pooled))
    return probability_from_logit(torch.cat(logits).numpy())


def as_tensors(block: ColumnBlock) -> tuple[Any, Any]:
    """Return values (N, K) float64 and tokens (N, F) int64 of raw rows as the loader takes them; -1 is a missing token."""
    bits = np.unpackbits(block.missing.view(np.uint8), axis=1, bitorder="little")
    gone = bits[:, len(block.schema.dense) :][:, : len(block.schema.features)]
    tokens = np.where(gone, -1, block.tokens.astype(np.int64))
    return torch.from_numpy(block.values), torch.from_numpy(tokens)
