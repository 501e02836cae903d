"""Hutchinson's estimate of the Hessian diagonal of any model, from a second backward pass through the first.

E[z * (H z)] = diag(H) for z of independent random signs; curvature/hutchinson.py lists the sources. It works for all models
that can be differentiated twice, including those that `exact_curvature` refuses.
"""

# pyright: basic
# Hooks and outputs of arbitrary models are untyped.
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dlrm_adahessian.curvature.hutchinson import random_signs
from dlrm_adahessian.library.attached import add_curvature_, clear_curvature
from dlrm_adahessian.library.check import refuse_compiled


class hutchinson_curvature:  # noqa: N801 -- named like torch.no_grad
    """Fill `p.curvature` of all parameters at the end of a block that calls `backward(create_graph=True)`.

        curvature = hutchinson_curvature(model)
        for step, (x, y) in enumerate(batches):
            optimizer.zero_grad()
            if step % 8 == 0:
                with curvature:
                    loss_fn(model(x), y).backward(create_graph=True)
            else:
                loss_fn(model(x), y).backward()
            optimizer.step()

    `p.curvature` is a mean of `draws` unbiased estimates, whose noise comes from off-diagonal entries of the Hessian. If
    `p.grad` is None when the block begins, the curvature is reset; otherwise it adds up. `p.curvature_samples` counts the
    rows of the model's outputs within the block, as a mean loss over them does.

    Args:
        model: any nn.Module on one rank, not compiled. Its output, or the first of several, has one row per sample.
        draws: number of random draws per estimate. Each takes one more backward pass.
        generator: generator of the signs on the parameters' device, to store in checkpoints; None creates one with seed 0.

    Raises:
        ValueError: the model is compiled, or a DistributedDataParallel, which cannot be differentiated twice.
        RuntimeError: at the end of the block, if gradients have no graph or the model did not run.
    """

    def __init__(self, model: nn.Module, *, draws: int = 1, generator: torch.Generator | None = None) -> None:
        if draws < 1:
            raise ValueError(f"draws must be at least 1, but got draws={draws}.")
        if isinstance(model, DistributedDataParallel):
            raise ValueError(
                "hutchinson_curvature differentiates twice, which DistributedDataParallel does not allow. Use "
                "exact_curvature, or one rank."
            )
        refuse_compiled(model)
        self._model, self._draws, self._generator = model, draws, generator
        self._rows, self._counted = 0, 0
        self._hook: Any = None

    def __enter__(self) -> Self:
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        if all(p.grad is None for p in parameters):
            clear_curvature(parameters)
            self._rows = 0
        self._counted = self._rows
        self._hook = self._model.register_forward_hook(self._count)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._hook.remove()
        if error is None:
            self._fill_()

    def _count(self, model: nn.Module, inputs: Any, output: Any) -> None:
        first = output if isinstance(output, Tensor) else next(iter(output))
        self._rows += len(first) if first.requires_grad else 0

    def _fill_(self) -> None:
        grads = {p: p.grad for p in self._model.parameters() if p.grad is not None}
        slopes = {p: grad for p, grad in grads.items() if grad.requires_grad}
        if self._rows == self._counted or not slopes:
            raise RuntimeError(
                "hutchinson_curvature needs a forward pass of the model within its block, and gradients with a "
                "graph. Call backward(create_graph=True) within the block."
            )
        if self._generator is None:
            self._generator = torch.Generator(next(iter(slopes)).device).manual_seed(0)
        samples = torch.tensor(float(self._rows))
        for p, curvature in zip(slopes, self._estimate(slopes, self._generator), strict=True):
            add_curvature_(p, curvature, samples)
            p.grad = slopes[p].detach()
        for p in grads.keys() - slopes.keys():  # whose gradient is constant
            add_curvature_(p, torch.zeros_like(p), samples)

    def _estimate(self, slopes: dict[nn.Parameter, Tensor], generator: torch.Generator) -> list[Tensor]:
        """Return the mean of z * (H z) for each parameter, from gradients that have a graph."""
        totals = [torch.zeros_like(p) for p in slopes]
        for draw in range(self._draws):
            signs = [random_signs(p, p.shape, generator) for p in slopes]
            products = torch.autograd.grad(
                list(slopes.values()),
                list(slopes),
                signs,
                retain_graph=draw + 1 < self._draws,
                materialize_grads=True,
            )
            for total, sign, product in zip(totals, signs, products, strict=True):
                total.addcmul_(sign, product, value=1 / self._draws)
        return totals
