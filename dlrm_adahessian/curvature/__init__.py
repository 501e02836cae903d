"""Estimators of the Hessian diagonal, for the dense parameters and the pooled embeddings."""
