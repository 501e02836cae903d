"""Map the settings of an architecture to its head. Imports no torch at the top level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dlrm_adahessian.model.config import DCNv2Config, DeepFMConfig, DLRMConfig, ModelConfig

if TYPE_CHECKING:
    import torch

    from dlrm_adahessian.model import dcnv2, deepfm, dlrm

    Head = dlrm.Head | deepfm.Head | dcnv2.Head

ModelName = Literal["dlrm", "deepfm", "dcnv2"]


def new_head(
    cfg: ModelConfig,
    *,
    num_dense: int,
    num_features: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Head:
    """Return the dense part of a model with its initial weights.

    Args:
        cfg: settings of the architecture.
        num_dense: K.
        num_features: F; K or F may be 0, but not both.
        generator: CPU generator for the initial weights.
        dtype: dtype of the parameters.

    Returns:
        A module from dense (B, K) and pooled (B, F, D) to logits (B,). Its `parts` says which matrix its curvature is of.

    Raises:
        ValueError: K and F are both 0.
    """
    if num_dense + num_features == 0:
        raise ValueError(
            "A model needs at least one feature, got no numeric and no categorical features. Add a column to the schema."
        )
    sizes = {"num_dense": num_dense, "num_features": num_features}
    match cfg:
        case DLRMConfig():
            from dlrm_adahessian.model import dlrm

            return dlrm.Head(cfg, **sizes, generator=generator, dtype=dtype)
        case DeepFMConfig():
            from dlrm_adahessian.model import deepfm

            return deepfm.Head(cfg, **sizes, generator=generator, dtype=dtype)
        case DCNv2Config():
            from dlrm_adahessian.model import dcnv2

            return dcnv2.Head(cfg, **sizes, generator=generator, dtype=dtype)
