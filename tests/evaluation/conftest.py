"""Fixtures with the models of `jobs`."""

from tests.evaluation.jobs import both, evaluate, own, place

__all__ = ["both", "evaluate", "own", "place"]
