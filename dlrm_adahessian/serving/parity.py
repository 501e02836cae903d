# pyright: basic
"""Compare the predictions of an exported folder with the checkpoint's, on random samples that cover all tables."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dlrm_adahessian.data.prepared.preprocessing import Preprocessing
from dlrm_adahessian.data.prepared.vocabulary import UNKNOWN, token_type
from dlrm_adahessian.data.rows import NO_LABEL, Bags, ColumnBlock, Features, missing_words, offsets_of
from dlrm_adahessian.evaluation.trained_model import TrainedModel
from dlrm_adahessian.serving import loader
from dlrm_adahessian.serving.rounding import RowType, rounded, unrounded
from dlrm_adahessian.train.state import SCORING_BATCH

ROWS = 1 << 16
_LONGEST_BAG = 5  # tokens
_ABSENT = 0.1  # share of missing values, and of tokens drawn independently of the vocabulary


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Absolute differences in probability over random samples.

    Attributes:
        rows: number of samples.
        identical: number of samples without a difference.
        largest: largest difference from the checkpoint's prediction, including the rounding of the tables.
        mean: mean of these differences.
        beyond_rounding: largest difference from the checkpoint's head on its own rounded embedding rows.
    """

    rows: int
    identical: int
    largest: float
    mean: float
    beyond_rounding: float


def compared(trained: TrainedModel, model: loader.Model, tables: RowType, rows: int = ROWS) -> Parity:
    """Compare predictions on random raw samples. This covers the vocabularies too.

    Args:
        trained: the checkpoint's model.
        model: a loaded folder.
        tables: storage type of the embedding rows.
        rows: number of samples.

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
    """Generate raw samples whose tokens cover the rows of each table uniformly. Some are missing, some unknown.

    Args:
        preprocessing: source of the tokens.
        rows: number of samples.
        seed: random seed.

    Returns:
        The samples, without labels.
    """
    rng = np.random.default_rng(seed)
    schema = preprocessing.schema
    num_dense, num_tokens = len(schema.dense), len(schema.tokens)
    values = np.floor(np.exp(rng.uniform(0, 43, (rows, num_dense)))) - 3  # up to 2**62
    absent = rng.random((rows, num_dense + num_tokens)) < _ABSENT
    values[absent[:, :num_dense]] = np.nan
    tokens = np.empty((rows, num_tokens), token_type(schema))
    for feature in range(num_tokens):
        tokens[:, feature], missing = _drawn_tokens(preprocessing, feature, rows, rng)
        absent[:, num_dense + feature] |= missing
    tokens[absent[:, num_dense:]] = 0
    bags: list[Bags] = []
    for feature in range(num_tokens, len(schema.features)):
        offsets = offsets_of(rng.integers(0, _LONGEST_BAG + 1, rows))
        found, _ = _drawn_tokens(preprocessing, feature, offsets[-1], rng)
        bags.append(Bags(values=found, offsets=offsets))
    return ColumnBlock(
        schema=schema,
        labels=np.full(rows, NO_LABEL, np.int8),
        values=values,
        tokens=tokens,
        missing=missing_words(absent),
        bags=bags,
    )


def _drawn_tokens(
    preprocessing: Preprocessing, feature: int, count: int, rng: np.random.Generator
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return random tokens (count,) of a feature, some unknown, and a mask (count,) of those that are missing."""
    vocabulary = preprocessing.vocabulary
    known = vocabulary.tokens_of(feature)
    found = rng.integers(0, 1 << preprocessing.schema.token_bits, count, np.uint64)
    found = found.astype(vocabulary.tokens.dtype)
    row = rng.integers(0, len(known) + 1, count)
    taken = (row != UNKNOWN) & (rng.random(count) > _ABSENT)
    found[taken] = known[row[taken] - 1]
    return found, (row != UNKNOWN) & (row == vocabulary.missing[feature])


@torch.no_grad()
def _rounded_probabilities(
    trained: TrainedModel, features: Features, tables: RowType
) -> npt.NDArray[np.float32]:
    """Return the probabilities (N,) of the checkpoint's head on its own embedding rows, rounded after the lookup.

    This avoids a second copy of the tables. It is exact, because each row is rounded independently.
    """
    names = trained.preprocessing.schema.features
    weights, head = trained.state.lookup.tables(), trained.state.served_head()
    logits: list[torch.Tensor] = []
    for start in range(0, len(features), SCORING_BATCH):
        some = features[start : start + SCORING_BATCH]
        ids = [torch.from_numpy(column).long() for column in np.ascontiguousarray(some.ids.T)]
        vectors = [
            _looked_up(weights[name], column, tables) for name, column in zip(names, ids, strict=False)
        ]
        for name, bags in zip(names[len(ids) :], some.bags, strict=True):
            rows = _looked_up(weights[name], torch.from_numpy(bags.values).long(), tables)
            bag = torch.from_numpy(np.repeat(np.arange(len(bags)), bags.lengths))
            vectors.append(torch.zeros(len(bags), rows.shape[1]).index_add_(0, bag, rows))
        dim = trained.config.model.embedding_dim
        pooled = torch.stack(vectors, 1) if vectors else torch.empty(len(some), 0, dim)
        logits.append(head(torch.from_numpy(np.array(some.dense)), pooled))
    return trained.probability(torch.cat(logits).numpy())


def _looked_up(table: torch.Tensor, ids: torch.Tensor, tables: RowType) -> torch.Tensor:
    return unrounded(rounded(table[ids], tables))


def as_tensors(block: ColumnBlock) -> tuple[Any, Any, list[tuple[Any, Any]]]:
    """Return raw samples as arguments of the loader.

    Args:
        block: the samples.

    Returns:
        Values (N, K) float64, NaN if missing; tokens (N, T) int64, -1 if missing; values and offsets of each bag.
    """
    bits = np.unpackbits(block.missing.view(np.uint8), axis=1, bitorder="little")
    gone = bits[:, len(block.schema.dense) :][:, : len(block.schema.tokens)]
    tokens = np.where(gone, -1, block.tokens.astype(np.int64))
    bags = [
        (torch.from_numpy(each.values.astype(np.int64)), torch.from_numpy(each.offsets))
        for each in block.bags
    ]
    return torch.from_numpy(block.values), torch.from_numpy(tokens), bags
