# pyright: basic
# Arguments of arbitrary models are untyped.
"""Check on a few samples of the first batch whether a model has a known curvature, using curvature/check.py."""

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
"""Results per model, by whether the check was joint."""


def is_measured(model: nn.Module, *, jointly: bool) -> bool:
    """Return whether `measure` has checked a model with this setting."""
    return jointly in _known.get(model, {})


def measure(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, jointly: bool) -> None:
    """Check a model without changing its parameters or random numbers. Its hooks run on a copy.

    Args:
        model: any module.
        args: arguments of its forward pass. Tensors with as many rows as the first one contain samples, also within
            lists, tuples and dictionaries.
        kwargs: keyword arguments of its forward pass, treated likewise.
        jointly: whether the diagonal is needed in a basis other than coordinates.

    Raises:
        ValueError: one backward pass does not give the curvature of this model. The message says where and why.
    """
    if not linear_layers(model):
        raise ValueError(
            "exact_curvature needs an nn.Linear with a trained parameter, but the model has none. Use "
            "hutchinson_curvature."
        )
    head = _Head(model, args, kwargs)
    numbers = torch.arange(head.samples, device=head.device).unsqueeze(1)
    found = measured(head, numbers, numbers.new_empty(head.samples, 0, 1), jointly=jointly)
    _known.setdefault(model, {})[jointly] = found


def refuse_inexact(model: nn.Module, kind: Kind, *, jointly: bool) -> None:
    """Raise a ValueError if the diagonal of a checked model is not that of the matrix `kind`."""
    found = _known[model][jointly]
    if kind == "hessian" and found.parts.weights != "hessian":
        place = found.curved_at["weights"].removeprefix("model.")
        in_which = "all weights of a layer jointly" if jointly else "each single weight"
        raise ValueError(
            f"The exact Hessian diagonal needs outputs that are piecewise linear in {in_which}, but those of this "
            f"model are curved in its weights (at {place}). Use kind='gauss_newton' for the Gauss-Newton matrix, or "
            "hutchinson_curvature for an estimate of the Hessian diagonal."
        )


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a model compiled by torch.compile, because hooks do not run inside it."""
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or module._compiled_call_impl is not None:
            raise ValueError(
                "exact_curvature records the inputs and outputs of each nn.Linear, which compiled models hide, but "
                f"{name or 'the model'} is compiled. Use the model from before torch.compile."
            )


class _Head(nn.Module):
    """A model on one batch, called with the row numbers of the samples to use."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        rows = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
        if not rows or not len(rows[0]):
            raise ValueError(
                "exact_curvature checks a model on the first tensor argument of its forward pass that has one row per "
                "sample, but found none with a row. Pass at least one sample."
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
                f"exact_curvature needs a model that returns one output per sample, (B,) or (B, 1), but got {shape} for B = "
                f"{len(rows)}. Use hutchinson_curvature."
            )
        return output.reshape(-1)
