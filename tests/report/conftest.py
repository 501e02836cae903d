"""The comparisons of `tests.compare.studies`, which run once for both folders."""

from tests.compare.studies import finished, study

__all__ = ["finished", "study"]
