"""Architectures of the dense part: a head maps dense inputs and pooled embeddings to logits."""
