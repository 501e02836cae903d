"""Record the inputs and outputs of a head's linear layers, at which autograd then computes gradients.

A parameter with requires_grad False is a constant. Layers with only such parameters are ignored.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import cast

from torch import Tensor, nn

Passed = tuple[nn.Linear, Tensor, Tensor]
"""A layer, its inputs (C, in), and its outputs (C, out) or the gradients at them."""


def linear_layers(head: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers with a parameter that requires a gradient, by name and without duplicates."""
    return {
        name: module
        for name, module in head.named_modules()
        if isinstance(module, nn.Linear)
        and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
    }


@contextmanager
def passing(layers: Iterable[nn.Linear]) -> Generator[list[Passed]]:
    """Collect (layer, inputs, outputs) for each run of these layers within the block, in order."""
    seen: list[Passed] = []

    def record(
        layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> None:
        given = inputs[0] if inputs else named["input"]
        seen.append((cast(nn.Linear, layer), given.detach(), output))

    hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
