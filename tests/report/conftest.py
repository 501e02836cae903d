"""Reuse the comparisons of `tests.compare.studies` and the models of `tests.evaluation.jobs`."""

from tests.compare.studies import models, study
from tests.evaluation.jobs import both, evaluate, place

__all__ = ["both", "evaluate", "models", "place", "study"]
