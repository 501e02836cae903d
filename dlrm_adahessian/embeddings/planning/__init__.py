"""Plan which rank holds which part of each table, and check that it fits into memory."""
