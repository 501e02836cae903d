"""The comparisons of `studies`."""

from tests.compare.studies import finished, study

__all__ = ["finished", "study"]
