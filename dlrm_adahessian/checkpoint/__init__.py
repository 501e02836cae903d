"""Checkpoints: written, read, and written while training goes on."""
