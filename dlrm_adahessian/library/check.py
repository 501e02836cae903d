# pyright: basic
# What is given to any model has no types.
"""Whether the curvature of a model is known, measured on a few samples of its first batch by curvature/check.py."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from dlrm_adahessian.curvature.check import Measured, measured
from dlrm_adahessian.curvature.layers import linear_layers
from dlrm_adahessian.curvature.parts import Kind

_SAMPLES = 8
_known: WeakKeyDictionary[nn.Module, dict[bool, Measured]] = WeakKeyDictionary()
"""By whether it was measured jointly."""


def is_measured(model: nn.Module, *, jointly: bool) -> bool:
    """Whether `measure` has seen a model so."""
    return jointly in _known.get(model, {})


def measure(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, jointly: bool) -> None:
    """Measure a model, which keeps its parameters and random numbers; hooks of it run on the copy that is measured.

    Args:
        model: any.
        args: of its forward pass; tensors of as many rows as the first one has are those of samples, also within
            lists, tuples and dictionaries.
        kwargs: likewise.
        jointly: whether the diagonal is wanted in another basis than the coordinates.

    Raises:
        ValueError: one backward pass does not make the curvature of this model; says where and why.
    """
    if not linear_layers(model):
        raise ValueError(
            "exact_curvature needs an nn.Linear with a parameter that is trained, and the model has none; use "
            "hutchinson_curvature"
        )
    head = _Head(model, args, kwargs)
    numbers = torch.arange(head.samples, device=head.device).unsqueeze(1)
    found = measured(head, numbers, numbers.new_empty(head.samples, 0, 1), jointly=jointly)
    _known.setdefault(model, {})[jointly] = found


def refuse_inexact(model: nn.Module, kind: Kind, *, jointly: bool) -> None:
    """Refuse a model, measured so before, whose diagonal is not that of the matrix of this kind; a ValueError says where."""
    found = _known[model][jointly]
    if kind == "hessian" and found.parts.weights != "hessian":
        place = found.curved_at["weights"].removeprefix("model.")
        in_which = "all weights of a layer at once" if jointly else "each single weight"
        raise ValueError(
            f"the exact Hessian diagonal needs outputs that are piecewise linear in {in_which}, and those of this "
            f"model are curved in its weights, at {place}; take kind='gauss_newton' for the Gauss-Newton matrix, or "
            "hutchinson_curvature for an estimate of the Hessian's"
        )


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model that torch.compile made, within which nobody can watch."""
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ValueError(
                "curvature is made of what passes through each nn.Linear, which a compiled model does not show, and "
                f"{name or 'the model'} is compiled; use it as it was before torch.compile"
            )


class _Head(nn.Module):
    """A model on rows of one batch, which it is asked for by their numbers."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        rows = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        if not rows or not len(rows[0]):
            raise ValueError(
                "exact_curvature measures a model on the first tensor that its forward pass is given, with a row per "
                "sample, and found none with a row; give it samples"
            )
        self.samples, self.device, whole = min(len(rows[0]), _SAMPLES), rows[0].device, len(rows[0])

        def first(leaf: Any) -> Any:
            of_samples = isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == whole
            return leaf.detach()[: self.samples] if of_samples else leaf

        self.model = model
        self.given = tree_map(first, (args, kwargs))

    def forward(self, numbers: Tensor, pooled: Tensor) -> Tensor:
        del pooled
        rows = numbers[:, 0].long()

        def picked(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            leaf = leaf[rows] if leaf.ndim and len(leaf) == self.samples else leaf
            return leaf.to(numbers.dtype) if leaf.is_floating_point() else leaf

        args, kwargs = tree_map(picked, self.given)
        output = self.model(*args, **kwargs)
        if not isinstance(output, Tensor) or output.shape not in ((len(rows),), (len(rows), 1)):
            shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"exact_curvature needs a model that returns one output per sample, (B,) or (B, 1), got {shape} for B = "
                f"{len(rows)}; use hutchinson_curvature"
            )
        return output.reshape(-1)
