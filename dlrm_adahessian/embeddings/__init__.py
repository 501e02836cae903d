"""Sharded embedding tables: lookups, exchange of gradients and curvature between ranks, and row updates."""
