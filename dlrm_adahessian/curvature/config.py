"""Names of the estimators. Imports no torch."""

from typing import Literal

CurvatureName = Literal["exact", "hutchinson", "gauss_newton_bartlett", "none"]

PooledCurvature = Literal["none", "entries", "mean"]
"""What rows want of the curvature at the pooled embeddings: nothing, (B, F, D), or its mean over D, (B, F, 1)."""
