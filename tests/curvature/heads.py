"""Small heads such as users might write, with the true diagonals in float64."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from dlrm_adahessian.curvature.base import trained

DENSE, FEATURES, WIDTH, BATCH = 3, 2, 2, 6
READ = DENSE + FEATURES * WIDTH
"""Number of entries of a sample that a head reads."""


class Mlp(nn.Module):
    """Base of the other heads: two layers on all inputs. Subclasses change what comes before the last layer."""

    def __init__(self, inputs: int = READ) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 5), nn.Linear(5, 1)

    def read(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return torch.cat([dense, pooled.flatten(1)], 1)

    def hidden(self, x: Tensor) -> Tensor:
        return self.first(x).relu()

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return self.last(self.hidden(self.read(dense, pooled))).squeeze(1)


class Residual(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 2), nn.LeakyReLU(), nn.Linear(2, 5, bias=False))

    def hidden(self, x: Tensor) -> Tensor:
        x = super().hidden(x)
        return x + self.block(x).abs()


class FixedDropout(Mlp):
    def __init__(self, shape: tuple[int, ...] = (5,)) -> None:
        super().__init__()
        keep = torch.rand(shape, generator=torch.Generator().manual_seed(7)) < 0.6
        self.register_buffer("keep", keep / 0.6)

    def hidden(self, x: Tensor) -> Tensor:
        keep = self.keep if self.keep.ndim == 1 else self.keep[: len(x)]
        return super().hidden(x) * keep


class FactorizationMachine(Mlp):
    """Terms x * x that cancel, so the logit is linear in each entry up to rounding."""

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        pairs = (0.3 * pooled.sum(1).square() - 3 * (0.1 * pooled.square().sum(1))).sum(1)
        return super().forward(dense, pooled) + pairs


class FrozenNorm(Mlp):
    """Frozen modules are allowed anywhere and may run any number of times."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7), requires_grad=False)
        self.token = nn.Linear(WIDTH, WIDTH).requires_grad_(requires_grad=False)

    def read(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return super().read(self.scale * dense, self.token(pooled))


class Crosses(Mlp):
    """DCNv2's x0 * (W x + b) + x: a cross is linear in its own weights but not in its inputs."""

    def __init__(self, crosses: int = 1) -> None:
        super().__init__()
        self.crosses = nn.ModuleList(nn.Linear(READ, READ) for _ in range(crosses))

    def read(self, dense: Tensor, pooled: Tensor) -> Tensor:
        first = x = super().read(dense, pooled)
        for cross in self.crosses:
            x = first * cross(x) + x
        return x


class TimesOwnProjection(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(5, 5)

    def hidden(self, x: Tensor) -> Tensor:
        x = super().hidden(x)
        return x * self.projection(x)


class SquaredSequence(nn.Sequential):
    """Looks like a plain nn.Sequential but squares its output."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


class OfSquaredSequence(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.layers = SquaredSequence(self.first, nn.ReLU())

    def hidden(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TanhInGlue(Mlp):
    affine_in_each_input = True  # a former declaration, which must be ignored

    def hidden(self, x: Tensor) -> Tensor:
        return self.first(x).tanh()


class TwoUnitsMultiplied(Mlp):
    """Linear in each single weight but not in all weights of the first layer jointly."""

    def forward(self, dense: Tensor, pooled: Tensor) -> Tensor:
        x = self.first(self.read(dense, pooled))
        return self.last(torch.cat([x[:, :1] * x[:, 1:2], x[:, 1:2], x[:, 2:]], 1)).squeeze(1)


class Inplace(Mlp):
    def hidden(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x), inplace=True)


class CalledTwice(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(5, 5)

    def hidden(self, x: Tensor) -> Tensor:
        return self.again(self.again(super().hidden(x)).relu())


class NeverCalled(Mlp):
    """Uses the layer's weight without calling the module."""

    def hidden(self, x: Tensor) -> Tensor:
        return F.linear(x, self.first.weight, self.first.bias).relu()


class WeightReadTwice(Mlp):
    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) + F.linear(x, self.first.weight)


class OfEachFeature(Mlp):
    """A layer with inputs (B * F, D) or (B, F, D)."""

    def __init__(self, *, reshaped: bool) -> None:
        super().__init__()
        self.token, self.reshaped = nn.Linear(WIDTH, WIDTH), reshaped

    def read(self, dense: Tensor, pooled: Tensor) -> Tensor:
        rows = pooled.reshape(-1, WIDTH) if self.reshaped else pooled
        return super().read(dense, self.token(rows).view_as(pooled))


class RowsReversed(Mlp):
    """One row per sample, but from another sample."""

    def hidden(self, x: Tensor) -> Tensor:
        return self.first(x.flip(0)).flip(0).relu()


class CenteredOverTheBatch(Mlp):
    def read(self, dense: Tensor, pooled: Tensor) -> Tensor:
        return super().read(dense, pooled - pooled.mean(0))


class Normed(Mlp):
    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm = norm()

    def hidden(self, x: Tensor) -> Tensor:
        return self.norm(super().hidden(x))


BATCH_NORMED = partial(Normed, partial(nn.BatchNorm1d, 5, affine=False))
TRAINED_BATCH_NORMED = partial(Normed, partial(nn.BatchNorm1d, 5))
ALWAYS_OF_THE_BATCH = partial(Normed, lambda: nn.BatchNorm1d(5, track_running_stats=False).eval())
FROZEN_BATCH_NORMED = partial(Normed, lambda: nn.BatchNorm1d(5).eval().requires_grad_(requires_grad=False))
LAYER_NORMED = partial(Normed, partial(nn.LayerNorm, 5, elementwise_affine=False))
TRAINED_LAYER_NORMED = partial(Normed, partial(nn.LayerNorm, 5))


class Scaled(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def hidden(self, x: Tensor) -> Tensor:
        return super().hidden(x) * self.scale


class Shared(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(5, 5), nn.Linear(5, 5)
        self.other.weight = self.one.weight

    def hidden(self, x: Tensor) -> Tensor:
        return self.other(self.one(super().hidden(x)).relu())


class WithoutGradients(Mlp):
    def hidden(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().hidden(x)


def made(kind, *args, **kwargs) -> nn.Module:
    """Create a head from a class or function, in float64."""
    torch.manual_seed(3)
    return kind(*args, **kwargs).double()


def batch(samples: int = BATCH, features: int = FEATURES) -> tuple[Tensor, Tensor, Tensor]:
    """Return dense inputs (B, K), pooled embeddings (B, F, D), and labels (B,)."""
    g = torch.Generator().manual_seed(5)
    dense = torch.randn(samples, DENSE, generator=g, dtype=torch.float64)
    pooled = torch.randn(samples, features, WIDTH, generator=g, dtype=torch.float64)
    return dense, pooled, torch.rand(samples, generator=g).lt(0.4).double()


def _logits(head: nn.Module, dense: Tensor, pooled: Tensor):
    """Return the logits as a function of the concatenated trained parameters and the pooled embeddings."""
    parameters = {name: p for name, p in head.named_parameters() if p.requires_grad}
    assert len(parameters) == len(trained(head))

    def logits(flat: Tensor, pooled: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in parameters.values()])
        named = {n: part.view_as(p) for (n, p), part in zip(parameters.items(), parts, strict=True)}
        return functional_call(head, named, (dense, pooled))

    return logits, (torch.cat([p.detach().reshape(-1) for p in parameters.values()]), pooled)


def hessian_diagonals(head, dense, pooled, labels, weights=None) -> tuple[Tensor, Tensor]:
    """Return the diagonals for the mean loss, (P,) and (B, F, D)."""
    logits, at = _logits(head, dense, pooled)

    def loss(*at: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits(*at), labels, weights)

    found = torch.autograd.functional.hessian(loss, at)
    entries = pooled.numel()
    return found[0][0].diagonal(), found[1][1].reshape(entries, entries).diagonal().view_as(pooled)


def gauss_newton_diagonals(head, dense, pooled) -> tuple[Tensor, Tensor]:
    """Return the diagonals for the mean loss, (P,) and (B, F, D), from the gradients of each logit."""
    logits, at = _logits(head, dense, pooled)
    p = logits(*at).detach().sigmoid()
    weight = p * (1 - p) / len(p)
    of_weights, of_pooled = torch.autograd.functional.jacobian(logits, at)
    return torch.einsum("b,bp->p", weight, of_weights.square()), torch.einsum(
        "b,bcfd->cfd", weight, of_pooled.square()
    )
