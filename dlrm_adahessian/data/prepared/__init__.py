"""Prepared rows: memory maps and a vocabulary in sealed folders."""
