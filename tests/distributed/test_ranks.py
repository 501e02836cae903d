"""Messages between ranks, and the share of a batch that each rank takes."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlrm_adahessian.distributed import ranks
from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.errors import StorageError, ToldElsewhereError
from tests.processes import worlds


def test_alone_work_is_done_and_what_it_raises_is_raised():
    assert (ranks.rank(), ranks.world_size(), ranks.is_first()) == (0, 1, True)
    assert ranks.agreed(lambda: 3) == [3]
    assert ranks.first_does(lambda: "x") == "x"
    assert ranks.Vote(2, 5).largest() == [2, 5]
    with pytest.raises(StorageError, match="full"), ranks.one_voice():
        ranks.agreed(fail)


def fail() -> None:
    raise StorageError("full")


def tell(folder: Path) -> None:
    with init_process_group(timeout=60):
        rank = ranks.rank()
        found = [
            ranks.agreed(lambda: [rank, "ü"]),
            ranks.first_does(lambda: {"of": rank}),
            ranks.Vote(rank, 7 - rank).largest(),
        ]
        try:
            with ranks.one_voice():
                ranks.agreed(fail if rank == 1 else lambda: 1)
        except StorageError as error:
            found.append(str(error))
        except ToldElsewhereError as error:
            found.append(error.exit_code)
        found.append(ranks.agreed(lambda: "after the failure"))
        (folder / str(rank)).write_text(json.dumps(found))


@pytest.mark.dist
def test_three_ranks_have_the_same_results_and_one_failure_is_all_ranks_failure(tmp_path: Path):
    worlds.run(3, tell, tmp_path, log=tmp_path / "log")
    for rank in range(3):
        told, first, largest, failure, after = json.loads((tmp_path / str(rank)).read_text())
        assert told == [[0, "ü"], [1, "ü"], [2, "ü"]]
        assert first == {"of": 0}
        assert largest == [2, 7]
        assert failure == ("full" if rank == 1 else StorageError.exit_code)
        assert after == ["after the failure"] * 3


@given(
    samples=st.integers(1, 50),
    world_size=st.integers(1, 9),
    extra=st.integers(0, 3),
    first=st.integers(0, 60),
)
def test_shares_are_the_batch_in_order(samples: int, world_size: int, extra: int, first: int):
    size = -(-samples // world_size) + extra
    shares = [
        ranks.Share(samples=samples, rank=rank, world_size=world_size, size=size)
        for rank in range(world_size)
    ]
    held = [sample for share in shares for sample in range(share.first, share.first + share.count)]
    assert held == list(range(samples))
    assert {share.padded for share in shares} == {max(share.count for share in shares)}
    # Concatenated with padding, each sample is at its own index. The owners of embedding rows rely on it.
    for share in shares:
        assert share.count == 0 or share.first == share.rank * share.padded
    assert [share.count_among(first) for share in shares] == [
        sum(sample < first for sample in range(share.first, share.first + share.count)) for share in shares
    ]


def test_one_rank_alone_has_all_and_no_padding():
    share = ranks.Share.whole(7)
    assert (share.first, share.count, share.padded, share.count_among(3)) == (0, 7, 7, 3)
