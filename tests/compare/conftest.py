"""Make the fixtures of `studies` available."""

from tests.compare.studies import finished, models, searched, study

__all__ = ["finished", "models", "searched", "study"]
