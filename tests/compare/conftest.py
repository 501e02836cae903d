"""The comparisons of `studies`."""

from tests.compare.studies import finished, searched, study

__all__ = ["finished", "searched", "study"]
