"""The models of `jobs`."""

from tests.evaluation.jobs import both, evaluate, place

__all__ = ["both", "evaluate", "place"]
