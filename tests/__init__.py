"""Tests. The folders mirror the package."""
