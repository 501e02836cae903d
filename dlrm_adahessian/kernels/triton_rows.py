# pyright: basic
# pyright: reportArgumentType=false, reportOperatorIssue=false
# In kernels the types are Triton's, which its own annotations miss.
"""Look up rows on the GPU, sum derivatives over each row's hits, and update the rows.

The lookup is one kernel. It computes pooled embeddings and, for each lookup, what the update needs. It does not ask whether
all bags contain one row, because the host would wait for the answer. Instead, a block of bags adds one row per bag until
none is left. With one row per bag, this is a plain gather.

The update is one sort and two kernels. Lookups are sorted by row, which makes the hits of one row (a run) adjacent. A run
has one lookup or, in the small tables of Criteo, the whole batch. The first kernel splits the sorted lookups into tiles of
equal size, which balances the work for all run lengths. It sums each run within its tile with a segmented scan, and updates
the rows whose runs start and end in one tile. A run over several tiles leaves a partial sum in each. The second kernel adds
these and updates the row. All sums have a fixed order and there are no atomics, so results are deterministic, bit for bit.

The host never waits for the device: launch sizes depend on the number of lookups, not on the number of distinct rows. Sums
stay in registers until the row is written, so each row is read and written once.

A row rule is one function, a `@triton_kernel`, that both kernels inline:

    direction = rule(states, weight, row, entry, touched, here, grad, curvature, has_curvature, count, samples, cfg, width)

where `weight` has the rows (N, D), and `states` the pointers to the rule's state tensors in the order of `new_state`. `row`
(N, 1) and `entry` (N, D) are positions in tensors (R,) and (R, D); `touched` (N, 1) and `here` (N, D) mask those that exist.
`grad` and `curvature` are the sums (N, D), with `has_curvature` (N, 1). `count` (N, 1) is the number of lookups or the sum
of their weights, `samples` is B, and `cfg` has the rule's settings. The function updates the states and returns the
direction (N, D), which the learning rate multiplies. It must load everything first, then call `tl.debug_barrier()`, then
store: several threads may have the same entry, and none may load what another has already stored.
"""

from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton import jit

_BAGS = 64  # bags per program of the lookup; a power of two
_TILE = 64  # lookups per program of the update; a power of two
_SPAN = 128  # tiles whose partial sums are added at a time; a power of two


def look_up_triton(
    weight: Tensor, indices: Tensor, offsets: Tensor, first_rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum the rows of each bag, in the order of its lookups.

    Args:
        weight: (R, D) contiguous.
        indices: (L,) int64, rows within their table, sorted by feature, then by bag.
        offsets: (T * B + 1,) integers, the start of each bag in `indices`.
        first_rows: (T,) int64, the row of `weight` that is row 0 of each feature's table.

    Returns:
        (L,) int64 row of `weight` and (L,) int64 bag of each lookup; (B * T, D) pooled embeddings by bag, ordered by
        sample, then feature.
    """
    num_bags, width, features = offsets.shape[0] - 1, weight.shape[1], first_rows.shape[0]
    pooled = weight.new_empty(num_bags, width)
    rows, bags = torch.empty_like(indices), torch.empty_like(indices)
    if num_bags:
        _look_up[(-(-num_bags // _BAGS),)](
            weight, indices, offsets, first_rows, pooled, rows, bags, num_bags, num_bags // features, features,
            WIDTH=width, PADDED=1 << (width - 1).bit_length(), BAGS=_BAGS,
        )  # fmt: skip
    return rows, bags, pooled


@jit
def _look_up(
    weight, indices, offsets, first_rows, pooled, rows, bags, num_bags, batch, features,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BAGS: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0) * BAGS + tl.arange(0, BAGS)
    exists = place < num_bags
    feature = place // batch
    bag = ((place % batch) * features + feature).to(tl.int64)
    first_row = tl.load(first_rows + feature, mask=exists, other=0)
    lookup = tl.load(offsets + place, mask=exists, other=0)
    end = tl.load(offsets + place + 1, mask=exists, other=0)
    column = tl.arange(0, PADDED)[None, :]
    total = tl.zeros((BAGS, PADDED), weight.dtype.element_ty)
    more = tl.max((lookup < end).to(tl.int32), 0)
    while more > 0:
        live = lookup < end
        row = tl.load(indices + lookup, mask=live, other=0) + first_row
        tl.store(rows + lookup, row, mask=live)
        tl.store(bags + lookup, bag, mask=live)
        total += tl.load(
            weight + row[:, None] * WIDTH + column, mask=live[:, None] & (column < WIDTH), other=0
        )
        lookup += 1
        more = tl.max((lookup < end).to(tl.int32), 0)
    tl.store(pooled + bag[:, None] * WIDTH + column, total, mask=exists[:, None] & (column < WIDTH))


def update_rows_triton_(
    weight: Tensor,
    state: dict[str, Tensor],
    rows: Tensor,
    bags: Tensor,
    grad: Tensor,
    curvature: Tensor | None,
    *,
    sampled: Tensor | None,
    rule: Any,
    cfg: object,
    lr: float,
    samples: float,
    weights: Tensor | None = None,
    l2: float = 0.0,
    tile: int = _TILE,
) -> None:
    """Update the rows of a batch in `weight` and `state`, with sums as in `dlrm_adahessian.kernels.row_sums`.

    Args:
        weight: (R, D) contiguous, float32 or float64.
        state: state of the rule, contiguous tensors (R, D) or (R,).
        rows: (L,) int64, in [0, R). The lookups of one bag in one table are adjacent.
        bags: (L,) int64, index into the first dimension of `grad`.
        grad: (N, D) contiguous, gradient of the mean loss.
        curvature: (N, D), or its mean over D (N, 1), contiguous, or None.
        sampled: (B,) bool, the samples used for the curvature; None for all.
        rule: compiled function of the row rule.
        cfg: hashable settings of the rule. Kernels are compiled for each value.
        lr: learning rate, including the schedule's factor.
        samples: number of samples in the mean loss, or the sum of their weights.
        weights: (B,) sample weights, at least 0, with the dtype of `grad`; None for 1 each.
        l2: factor of the penalty l2/2 |row|^2 on each row of the batch, as in `Hits.penalized`. Kernels are compiled for
            each value.
        tile: lookups per tile, a power of two.
    """
    num_lookups, width = rows.shape[0], weight.shape[1]
    if num_lookups == 0:
        return
    per_sample = sampled if weights is None else weights
    bags_per_sample = 1 if per_sample is None else grad.shape[0] // per_sample.shape[0]
    keys = rows.to(torch.int32) if weight.shape[0] < 2**31 else rows  # halves the digits to sort by
    if weights is not None:
        # No row is -1 and no run of it ever starts, so lookups of weight 0 have no effect.
        keys = torch.where(weights[bags // bags_per_sample] > 0, keys, -1)
    keys, order = keys.sort(stable=True)
    num_tiles = -(-num_lookups // tile)
    padded = 1 << (width - 1).bit_length()
    # Partial sums in each tile of runs over several tiles: [0] of the run that enters it, [1] of the run that leaves it.
    edge_grad = weight.new_empty(2, num_tiles, padded)
    edge_curvature = edge_grad if curvature is None else torch.empty_like(edge_grad)
    edge_count = keys.new_empty((2, num_tiles), dtype=torch.int32 if weights is None else weights.dtype)
    # Floating point, because the squares of long bags may exceed 32 bits.
    edge_squares, edge_sampled = (weight.new_empty(2, num_tiles) for _ in range(2))
    scratch = (edge_grad, edge_curvature, edge_count, edge_squares, edge_sampled)
    states = tuple(state.values())
    constants = {
        "RULE": rule,
        "CFG": cfg,
        "WIDTH": width,
        "PADDED": padded,
        "TILE": tile,
        "L2": l2,
        "WITH_CURVATURE": curvature is not None,
        "ALL_SAMPLED": sampled is None,
    }
    _update_within_tiles[(num_tiles,)](
        weight, states, keys, order, bags, grad,
        grad if curvature is None else curvature,
        keys if sampled is None else sampled,
        keys if weights is None else weights,
        scratch, num_lookups, bags_per_sample, lr, samples,
        **constants, WEIGHTED=weights is not None, CURVATURE_WIDTH=width if curvature is None else curvature.shape[1],
    )  # fmt: skip
    _update_across_tiles[(num_tiles,)](
        weight, states, keys, scratch, num_lookups, num_tiles, lr, samples, **constants, SPAN=_SPAN
    )


@jit
def _add_within_run(starts, value, starts_right, value_right):
    # Sums restart at the start of a run.
    return starts | starts_right, tl.where(starts_right != 0, value_right, value + value_right)


@jit
def _update(
    weight, states, row, touched, grad, curvature, count, squares, sampled_squares, lr, samples,
    RULE, CFG, L2, WIDTH, PADDED, WITH_CURVATURE, ALL_SAMPLED,
):  # fmt: skip
    column = tl.arange(0, PADDED)[None, :]
    entry = row.to(tl.int64) * WIDTH + column
    here = touched & (column < WIDTH)
    old = tl.load(weight + entry, mask=here, other=0)
    if WITH_CURVATURE and not ALL_SAMPLED:
        # Assume that unused samples have the same curvature as those used for it.
        curvature *= squares / tl.where(sampled_squares > 0, sampled_squares, 1)
    if L2 > 0:
        grad += L2 * old
        curvature += tl.where(here, L2, 0)
    direction = RULE(
        states, old, row, entry, touched, here, grad, curvature, sampled_squares > 0, count, samples, CFG, WIDTH
    )  # fmt: skip
    tl.store(weight + entry, old - lr * direction, mask=here)


@jit
def _repeats(keys, order, bags, lookup, exists, row, bag, starts):
    # Number of hits of the row in the bag, up to this one. The sort is stable, so they are adjacent.
    repeats = starts * 0 + 1
    same = exists & (starts == 0)
    back = 1
    more = tl.max(same.to(tl.int32), 0)
    while more > 0:
        same = same & (lookup >= back)
        same = same & (tl.load(keys + lookup - back, mask=same, other=-1) == row)
        position = tl.load(order + lookup - back, mask=same, other=0)
        same = same & (tl.load(bags + position, mask=same, other=-1) == bag)
        repeats += same.to(tl.int32)
        back += 1
        more = tl.max(same.to(tl.int32), 0)
    return repeats


@jit
def _counted(exists, weights, sample, WEIGHTED):
    if WEIGHTED:
        return tl.load(weights + sample, mask=exists, other=0)
    else:
        return exists.to(tl.int32)


@jit
def _took_part(exists, sampled, sample, ALL_SAMPLED):
    if ALL_SAMPLED:
        return exists
    else:
        return exists & (tl.load(sampled + sample, mask=exists, other=0) != 0)


@jit
def _update_within_tiles(
    weight, states, keys, order, bags, grad, curvature, sampled, weights, scratch, num_lookups, bags_per_sample, lr, samples,
    RULE: tl.constexpr, CFG: tl.constexpr, L2: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
    WITH_CURVATURE: tl.constexpr, ALL_SAMPLED: tl.constexpr, WEIGHTED: tl.constexpr, CURVATURE_WIDTH: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    num_tiles = tl.num_programs(0)
    lane = tl.arange(0, TILE)
    lookup = tile * TILE + lane
    exists = lookup < num_lookups
    row = tl.load(keys + lookup, mask=exists, other=-1)
    before = tl.load(keys + lookup - 1, mask=exists & (lookup > 0), other=-1)
    after = tl.load(keys + lookup + 1, mask=lookup + 1 < num_lookups, other=-1)
    starts = (row != before).to(tl.int32)
    ends = exists & (row != after)
    bag = tl.load(bags + tl.load(order + lookup, mask=exists, other=0), mask=exists, other=0)

    column = tl.arange(0, PADDED)[None, :]
    entry = bag[:, None] * WIDTH + column
    here = exists[:, None] & (column < WIDTH)
    starts_wide = starts[:, None] + tl.zeros((TILE, PADDED), tl.int32)
    grad_sum = tl.load(grad + entry, mask=here, other=0)
    _, grad_sum = tl.associative_scan((starts_wide, grad_sum), 0, _add_within_run)
    curvature_sum = grad_sum
    counted = _counted(exists, weights, bag // bags_per_sample, WEIGHTED)
    _, count = tl.associative_scan((starts, counted), 0, _add_within_run)
    squares = tl.zeros((TILE,), weight.dtype.element_ty)
    sampled_squares = squares
    if WITH_CURVATURE:
        # The c-th time that a bag contains the row, 2c - 1 times the bag's curvature is added, because the first m odd
        # numbers sum to m**2.
        repeats = _repeats(keys, order, bags, lookup, exists, row, bag, starts)
        took_part = _took_part(exists, sampled, bag // bags_per_sample, ALL_SAMPLED)
        if CURVATURE_WIDTH == 1:
            entry = bag[:, None] + column * 0  # the mean stands for each entry
        odd = (2 * repeats - 1).to(squares.dtype)
        weighted = tl.load(curvature + entry, mask=here & took_part[:, None], other=0) * odd[:, None]
        _, curvature_sum = tl.associative_scan((starts_wide, weighted), 0, _add_within_run)
        counted_odd = odd * counted
        _, squares = tl.associative_scan((starts, counted_odd), 0, _add_within_run)
        sampled_squares = squares
        if not ALL_SAMPLED:
            _, sampled_squares = tl.associative_scan(
                (starts, tl.where(took_part, counted_odd, 0)), 0, _add_within_run
            )
    began_here = tl.cumsum(starts, 0) > 0

    complete = ends & began_here
    _update(
        weight, states, row[:, None], complete[:, None], grad_sum, curvature_sum, count[:, None], squares[:, None],
        sampled_squares[:, None], lr, samples, RULE, CFG, L2, WIDTH, PADDED, WITH_CURVATURE, ALL_SAMPLED,
    )  # fmt: skip
    edge_grad, edge_curvature, edge_count, edge_squares, edge_sampled = scratch
    last = (lane == TILE - 1) & exists & (row == after)
    entered = exists & (began_here == 0) & (ends | last)
    leaves = began_here & last
    slot = (tl.where(leaves, num_tiles, 0) + tile)[:, None]
    edge = entered | leaves
    tl.store(edge_count + slot, count[:, None], mask=edge[:, None])
    tl.store(edge_squares + slot, squares[:, None], mask=edge[:, None])
    tl.store(edge_sampled + slot, sampled_squares[:, None], mask=edge[:, None])
    tl.store(edge_grad + slot * PADDED + column, grad_sum, mask=edge[:, None])
    if WITH_CURVATURE:
        tl.store(edge_curvature + slot * PADDED + column, curvature_sum, mask=edge[:, None])


@jit
def _update_across_tiles(
    weight, states, keys, scratch, num_lookups, num_tiles, lr, samples,
    RULE: tl.constexpr, CFG: tl.constexpr, L2: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr,
    WITH_CURVATURE: tl.constexpr, ALL_SAMPLED: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    end = (tile + 1) * TILE
    if end < num_lookups:
        row = tl.load(keys + end - 1)
        before_tile = tl.load(keys + end - TILE - 1, mask=tile > 0, other=-1)
        # This program handles the tile in which the run begins.
        if (tl.load(keys + end) == row) & (before_tile != row):
            edge_grad, edge_curvature, edge_count, edge_squares, edge_sampled = scratch
            column = tl.arange(0, PADDED)[None, :]
            leaving = (num_tiles + tile) * PADDED + column
            grad_sum = tl.load(edge_grad + leaving)
            curvature_sum = grad_sum
            if WITH_CURVATURE:
                curvature_sum = tl.load(edge_curvature + leaving)
            count = tl.load(edge_count + num_tiles + tile)
            squares = tl.load(edge_squares + num_tiles + tile)
            sampled_squares = tl.load(edge_sampled + num_tiles + tile)
            first = tile + 1
            more = 1
            while more > 0:
                entered = first + tl.arange(0, SPAN)
                start = entered * TILE
                mine = tl.load(keys + start, mask=start < num_lookups, other=-1) == row
                at = entered[:, None] * PADDED + column
                grad_sum += tl.sum(tl.load(edge_grad + at, mask=mine[:, None], other=0), 0)[None, :]
                if WITH_CURVATURE:
                    part = tl.load(edge_curvature + at, mask=mine[:, None], other=0)
                    curvature_sum += tl.sum(part, 0)[None, :]
                count += tl.sum(tl.load(edge_count + entered, mask=mine, other=0), 0)
                squares += tl.sum(tl.load(edge_squares + entered, mask=mine, other=0), 0)
                sampled_squares += tl.sum(tl.load(edge_sampled + entered, mask=mine, other=0), 0)
                first += SPAN
                more = tl.min(mine.to(tl.int32), 0)
            one = tl.full((1, 1), 1, tl.int32)
            _update(
                weight, states, row * one, one != 0, grad_sum, curvature_sum, count * one,
                squares * one.to(squares.dtype), sampled_squares * one.to(squares.dtype), lr, samples,
                RULE, CFG, L2, WIDTH, PADDED, WITH_CURVATURE, ALL_SAMPLED,
            )  # fmt: skip
