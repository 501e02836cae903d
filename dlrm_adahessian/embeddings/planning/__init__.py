"""Which rank holds which part of the tables, and whether it fits."""
