"""Shares of a batch: together they are the batch, in order, each sample once."""

from hypothesis import given
from hypothesis import strategies as st

from dlrm_adahessian.distributed.ranks import Share


@given(
    samples=st.integers(1, 50),
    world_size=st.integers(1, 9),
    extra=st.integers(0, 3),
    first=st.integers(0, 60),
)
def test_shares_are_the_batch_in_order(samples: int, world_size: int, extra: int, first: int):
    size = -(-samples // world_size) + extra
    shares = [
        Share(samples=samples, rank=rank, world_size=world_size, size=size) for rank in range(world_size)
    ]
    held = [sample for share in shares for sample in range(share.first, share.first + share.count)]
    assert held == list(range(samples))
    assert {share.padded for share in shares} == {max(share.count for share in shares)}
    # One after another, padding included, the samples stand at their own numbers: the owners of rows rely on it.
    for share in shares:
        assert share.count == 0 or share.first == share.rank * share.padded
    assert [share.count_among(first) for share in shares] == [
        sum(sample < first for sample in range(share.first, share.first + share.count)) for share in shares
    ]


def test_one_rank_alone_has_all_and_no_padding():
    share = Share.whole(7)
    assert (share.first, share.count, share.padded, share.count_among(3)) == (0, 7, 7, 3)
