"""Tests of dlrm_adahessian.train."""
