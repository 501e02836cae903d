"""Names of the architectures, and from the settings of one to its head: a case each. Imports no torch."""

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
    """Return the dense half of a model with its initial weights.

    Args:
        cfg: settings of its architecture.
        num_dense: K.
        num_features: F; K or F may be 0, not both.
        generator: of the initial weights, on the CPU.
        dtype: of the parameters.

    Returns:
        A module from dense (B, K) and pooled (B, F, D) to logits (B,), with `parts`: of which matrix its curvature is.

    Raises:
        ValueError: there is nothing to read.
    """
    if num_dense + num_features == 0:
        raise ValueError(
            "a model reads at least one column, got no dense and no categorical ones; give it one"
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
