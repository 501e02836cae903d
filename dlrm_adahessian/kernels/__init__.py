"""Row kernels: which rows a batch touched, and their summed derivatives."""
