"""Estimators of the Hessian diagonal of the dense parameters and the pooled embeddings."""
