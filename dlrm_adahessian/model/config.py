"""Sizes of the model. Imports no torch."""

from typing import Literal

from pydantic import Field

from dlrm_adahessian.runtime.settings import settings


@settings
class ModelConfig:
    """DLRM; the defaults are facebookresearch/dlrm's for Criteo Kaggle."""

    embedding_dim: int = Field(default=16, ge=1)
    """D, width of the tables and of the bottom MLP's output."""
    bottom: tuple[int, ...] = (512, 256, 64)
    """Hidden widths of the bottom MLP, between 13 inputs and D outputs."""
    top: tuple[int, ...] = (512, 256)
    """Hidden widths of the top MLP, between the interactions and the logit."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Of all hidden layers; the exact Hessian diagonal needs relu."""
    self_interaction: bool = False
    """Whether a feature's dot product with itself is an input of the top MLP."""
