# pyright: basic
"""How far an exported folder's predictions are from the checkpoint's, on rows drawn over all of the tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.data.prepared.vocabulary import UNKNOWN, Encoder, Vocabulary
from dlrm_adahessian.data.schema import (
    NO_LABEL,
    NUM_INTEGERS,
    NUM_TOKENS,
    TOKEN_NAMES,
    RowBlock,
    dense_features,
)
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
    block = drawn(trained.vocabulary, rows)
    encoder = trained.vocabulary.encoder()
    ours = checkpoint_probabilities(trained, encoder, block)
    expected = ours if tables == "fp32" else _rounded_probabilities(trained, encoder, block, tables)
    theirs = model.probabilities(*as_tensors(block)).numpy()
    difference = np.abs(ours.astype(np.float64) - theirs)
    return Parity(
        rows=rows,
        identical=int((difference == 0).sum()),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        beyond_rounding=float(np.abs(expected.astype(np.float64) - theirs).max()),
    )


def drawn(vocabulary: Vocabulary, rows: int, seed: int = 0) -> RowBlock:
    """Draw raw rows whose tokens lie uniformly over the rows of each table; some are missing, some unknown.

    Args:
        vocabulary: whose tokens to draw.
        rows: how many.
        seed: of the draws.

    Returns:
        The rows, without labels.
    """
    rng = np.random.default_rng(seed)
    integers = np.floor(np.exp(rng.uniform(0, 43, (rows, NUM_INTEGERS)))).astype(np.int64) - 3  # up to 2**62
    absent = rng.random((rows, NUM_INTEGERS + NUM_TOKENS)) < _ABSENT
    integers[absent[:, :NUM_INTEGERS]] = 0
    tokens = rng.integers(0, 1 << 32, (rows, NUM_TOKENS), dtype=np.uint32)
    for feature, height in enumerate(vocabulary.num_rows):
        row = rng.integers(0, height, rows)
        absent[:, NUM_INTEGERS + feature] |= (row != UNKNOWN) & (row == vocabulary.missing[feature])
        known = (row != UNKNOWN) & (rng.random(rows) > _ABSENT)
        tokens[known, feature] = vocabulary.tokens[vocabulary.offsets[feature] + row[known] - 1]
    tokens[absent[:, NUM_INTEGERS:]] = 0
    bits = np.uint64(1) << np.arange(NUM_INTEGERS + NUM_TOKENS, dtype=np.uint64)
    return RowBlock(
        labels=np.full(rows, NO_LABEL, np.int8),
        integers=integers,
        tokens=tokens,
        missing=(absent * bits).sum(1, dtype=np.uint64),
    )


def checkpoint_probabilities(
    trained: TrainedModel, encoder: Encoder, block: RowBlock
) -> npt.NDArray[np.float32]:
    """Return the probabilities (N,) that the checkpoint's model gives raw rows; `encoder` is that of its vocabulary."""
    ids = encoder.encode(block.tokens, block.missing)
    return trained.score(dense_features(block.integers), ids)


@torch.no_grad()
def _rounded_probabilities(
    trained: TrainedModel, encoder: Encoder, block: RowBlock, tables: RowType
) -> npt.NDArray[np.float32]:
    """Return the probabilities (N,) of the checkpoint's head on its own rows, of which only those looked up are rounded.

    So no second copy of the tables is made. A row is rounded by itself, whatever is rounded with it.
    """
    ids = torch.from_numpy(encoder.encode(block.tokens, block.missing)).long()
    dense = torch.from_numpy(dense_features(block.integers))
    weights = trained.state.lookup.tables()
    logits: list[torch.Tensor] = []
    for some, of_them in zip(dense.split(SCORING_BATCH), ids.split(SCORING_BATCH), strict=True):
        looked_up = [weights[name][of_them[:, feature]] for feature, name in enumerate(TOKEN_NAMES)]
        pooled = torch.stack([unrounded(rounded(rows, tables)) for rows in looked_up], 1)
        logits.append(trained.state.head(some, pooled))
    return probability_from_logit(torch.cat(logits).numpy())


def as_tensors(block: RowBlock) -> tuple[Any, Any]:
    """Return integers and tokens of raw rows as the loader takes them, both int64; -1 is a missing token."""
    bits = block.missing[:, None] >> np.arange(NUM_INTEGERS, NUM_INTEGERS + NUM_TOKENS, dtype=np.uint64)
    tokens = np.where(bits & np.uint64(1), -1, block.tokens.astype(np.int64))
    return torch.from_numpy(block.integers), torch.from_numpy(tokens)
