"""Batch offline evaluation: rows or earlier predictions in; predictions, figures and their slices out."""
