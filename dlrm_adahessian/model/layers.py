"""Build the linear layers of all heads with their initial weights.

As in DLRM's reference implementation, initial weights are normal with variance 2 / (in + out), and biases with variance
1 / out.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from dlrm_adahessian.model.dropout import Dropout

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def linear(
    inputs: int, outputs: int, *, generator: torch.Generator, dtype: torch.dtype, bias: bool = True
) -> nn.Linear:
    """Return a layer from (B, inputs) to (B, outputs). The generator draws the weights first, then the biases."""
    layer = nn.Linear(inputs, outputs, bias, dtype=dtype)
    with torch.no_grad():
        layer.weight.normal_(0, math.sqrt(2 / (inputs + outputs)), generator=generator)
        if bias:
            layer.bias.normal_(0, math.sqrt(1 / outputs), generator=generator)
    return layer


def hidden(
    widths: Sequence[int],
    activation: str,
    *,
    dropout: float = 0.0,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> nn.Sequential:
    """Return layers from (B, first width) to (B, last width), each followed by the activation; none for a single width.

    Dropout and activation share a module, so layers have the same positions and names with and without dropout.
    """
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        after: nn.Module = ACTIVATIONS[activation]()
        if dropout:
            after = nn.Sequential(after, Dropout(dropout, outputs))
        layers += [linear(inputs, outputs, generator=generator, dtype=dtype), after]
    return nn.Sequential(*layers)


def mlp(
    widths: Sequence[int],
    activation: str,
    *,
    dropout: float,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> nn.Sequential:
    """Return layers from (B, first width) to (B, 1): the layers of `hidden`, then a linear layer for the logit."""
    layers = hidden(widths, activation, dropout=dropout, generator=generator, dtype=dtype)
    return layers.append(linear(widths[-1], 1, generator=generator, dtype=dtype))
