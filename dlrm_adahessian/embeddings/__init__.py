"""Embedding tables over all ranks: lookups, exchange of derivatives, row updates."""
