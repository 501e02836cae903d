"""Compare the mean over many draws of an estimator with the truth, in units of its standard error."""

import torch

from tests.oracles import DENSE, FEATURES, pooled_of, small_batch

CALLS, DRAWS = 100, 15
"""1,500 draws. Each call averages 15 of them, which takes one forward pass."""


def table_diagonal(pooled_curvature, hits):
    return torch.einsum("fbr,bfd->frd", hits.square(), pooled_curvature)


def draws_of(kind, head, curvature_samples, weights=None, sizes=(DENSE, FEATURES)):
    """Return the curvature at the head's parameters and the tables, (CALLS, P). Each call averages DRAWS draws."""
    dense, tables, hits, labels = small_batch(2, *sizes)
    estimator = kind(DRAWS, 0, torch.device("cpu"))
    draws = []
    for _ in range(CALLS):
        found = estimator(
            head, dense, pooled_of(tables, hits), labels, curvature_samples=curvature_samples, weights=weights
        )
        # Convert from the mean over all samples to the mean over those in the estimate.
        pooled = found.pooled_curvature * len(labels) / curvature_samples
        rows = table_diagonal(pooled, hits)
        draws.append(torch.cat([found.curvature, rows.reshape(-1)]))
    return torch.stack(draws)


def within_five_standard_errors(draws, expected):
    return ((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / len(draws) ** 0.5 + 1e-12).all()
