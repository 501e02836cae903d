"""Send gradient and curvature of pooled embeddings to the ranks that hold the rows, in one all-to-all.

TorchRec would need two backward passes through its output distribution, one per derivative, with D numbers per bag each.
Here each rank sends the other ranks what their tables need, gradient and curvature together. Of the curvature it sends only
the numbers that the rule reads: one per bag for a rule with one accumulator per row. The gradient takes as many bytes as in
TorchRec. The curvature adds 1 / D of that, or as much again. bfloat16 halves the total; each number is rounded once,
before the owner sums what it receives.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor

from dlrm_adahessian.distributed import ranks


@dataclass(frozen=True, kw_only=True)
class TableGroup:
    """Describe tables of one rank that share a lookup kernel.

    Attributes:
        features: T feature indices into a lookup, in ascending order of tables.
        first_columns: T, the first column of each feature's table that the rank holds.
        columns: number of columns that the rank holds, the same for all tables.
        is_replicated: whether every rank has a copy and looks up its own batch in it.
    """

    features: list[int]
    first_columns: list[int]
    columns: int
    is_replicated: bool

    def places(self, width: int) -> list[int]:
        """Return the columns of (B, F * width) that the group reads; width is D, or 1 for one number per bag."""
        if width == 1:
            return self.features
        firsts = zip(self.features, self.first_columns, strict=True)
        return [f * width + first + i for f, first in firsts for i in range(self.columns)]


class RowExchange:
    """Send both derivatives of a batch to the owners of the rows. A collective: all ranks must call it."""

    def __init__(
        self, groups: Sequence[TableGroup], dim: int, device: torch.device, travel_as: torch.dtype
    ) -> None:
        """Share with all ranks which tables this rank holds.

        Args:
            groups: table groups of this rank.
            dim: D.
            device: device of the derivatives.
            travel_as: dtype in which numbers are sent. The dtype of the derivatives avoids rounding.
        """
        self._travel_as = travel_as
        self._groups = list(groups)
        told = ranks.agreed(lambda: [asdict(group) for group in groups if not group.is_replicated])
        sent = [[TableGroup(**group) for group in of_rank] for of_rank in told]
        self._sent, self._kept = {}, {}
        for width in (1, dim):
            of_ranks = [[place for group in of_rank for place in group.places(width)] for of_rank in sent]
            self._sent[width] = _Places(
                columns=torch.tensor(list(chain(*of_ranks)), device=device).long(),
                to_ranks=[len(of_rank) for of_rank in of_ranks],
                to_groups=[len(group.places(width)) for group in sent[ranks.rank()]],
            )
            self._kept[width] = [
                torch.tensor(group.places(width), device=device) for group in groups if group.is_replicated
            ]

    def __call__(self, grad: Tensor, curvature: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Return the derivatives that each group of this rank needs.

        Args:
            grad: (B, F, D) gradient of the mean loss over this rank's B samples; B is the same on all ranks.
            curvature: (B, F, C), where C is D or 1; or None on all ranks.

        Returns:
            For each group the gradient (N, columns) and the curvature (N, columns or 1) or None. N is T times the samples
            that the group sees, ordered by sample, then feature. A replicated group sees this rank's samples and mean
            loss; other groups see the samples of all ranks in order, and the mean loss over all of them.
        """
        parts = [grad] if curvature is None else [grad, curvature]
        received = iter(self._through_all_to_all(parts))
        kept = iter(zip(*(self._of_replicated(part) for part in parts), strict=True))
        found = []
        for group in self._groups:
            flat = next(kept) if group.is_replicated else next(received)
            tables = len(group.features)
            shaped = [part.reshape(len(part) * tables, -1) for part in flat]
            found.append((shaped[0], shaped[1] if curvature is not None else None))
        return found

    def _of_replicated(self, part: Tensor) -> list[Tensor]:
        return [part.flatten(1).index_select(1, columns) for columns in self._kept[part.shape[2]]]

    def _through_all_to_all(self, parts: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return the parts (W * B, columns of its features) of each group that is not replicated."""
        world, samples = ranks.world_size(), len(parts[0])
        places = [self._sent[part.shape[2]] for part in parts]
        chosen = [p.flatten(1).index_select(1, at.columns) for p, at in zip(parts, places, strict=True)]
        by_rank = zip(*(c.split(at.to_ranks, 1) for c, at in zip(chosen, places, strict=True)), strict=True)
        outgoing = [torch.cat([part.reshape(-1) for part in of_rank]) for of_rank in by_rank]
        widths = [sum(at.to_groups) for at in places]
        received = parts[0].new_empty(world, samples * sum(widths), dtype=self._travel_as)
        dist.all_to_all_single(
            received.view(-1),
            torch.cat(outgoing).to(self._travel_as),
            [received.shape[1]] * world,
            [len(buffer) for buffer in outgoing],
        )
        incoming = received.to(parts[0].dtype).div_(world)
        by_part = incoming.split([samples * width for width in widths], 1)
        by_group = [
            block.reshape(world * samples, width).split(at.to_groups, 1)
            for block, width, at in zip(by_part, widths, places, strict=True)
        ]
        return list(zip(*by_group, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Map the columns of a derivative (B, F * width) to ranks and groups.

    Attributes:
        columns: column indices for all ranks, one rank after another.
        to_ranks: number of columns for each rank.
        to_groups: number of columns for each group of this rank.
    """

    columns: Tensor
    to_ranks: list[int]
    to_groups: list[int]
