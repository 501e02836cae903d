"""Rules for touched embedding rows, a rule per file."""
