"""Train DLRM with second-order optimizers on dense and sparse parameters."""

__version__ = "0.1.0"
