"""Names of the estimators. Imports no torch."""

from typing import Literal

CurvatureName = Literal["exact", "hutchinson", "gauss_newton_bartlett", "none"]
