"""TorchRec's lookup, which a single process bypasses, returns the same embeddings, sent ahead or not."""

import torch
from torchrec import KeyedJaggedTensor

from dlrm_adahessian.distributed.process_group import init_process_group
from dlrm_adahessian.embeddings.config import TableSpec
from dlrm_adahessian.embeddings.sharded_lookup import ShardedLookup
from dlrm_adahessian.embeddings.torchrec_kernel import LookupsAhead
from dlrm_adahessian.optim.rows.adagrad import RowAdagradConfig

TABLES = [TableSpec(name=name, num_rows=rows, dim=4) for name, rows in (("z", 5), ("a", 3))]


def batch_of(seed: int) -> KeyedJaggedTensor:
    """Return bags of 0 to 2 rows for 6 samples."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 3, (12,), generator=generator, dtype=torch.int32)
    values = torch.randint(0, 3, (int(lengths.sum()),), generator=generator)
    return KeyedJaggedTensor(keys=["z", "a"], values=values, lengths=lengths)


def test_lookups_sent_ahead_are_those_of_their_batch():
    first, second, third = map(batch_of, range(3))
    with init_process_group(), torch.no_grad():
        lookup = ShardedLookup(TABLES, rule=RowAdagradConfig().build(), device=torch.device("cpu"))
        ahead = LookupsAhead(lookup._rows())

        def assert_found(batch: KeyedJaggedTensor) -> None:
            assert torch.equal(ahead.look_up(batch).values().view(-1, 2, 4), lookup(batch))

        ahead.send(second)
        ahead.advance()
        assert_found(first)
        assert_found(second)
        ahead.send(third)
        ahead.send(first)
        assert_found(first)
        assert_found(third)
