"""Kernels for embedding rows: sums of derivatives per row, updates on the GPU, and how kernels are compiled."""
