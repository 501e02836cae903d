"""Row kernels: which rows a batch touched, their summed derivatives, and the update on the GPU; how kernels compile."""
