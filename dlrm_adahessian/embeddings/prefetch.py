# pyright: basic
"""Lookups of the next batch on their way to the ranks that hold its rows, while this one is worked on.

What TorchRec's TrainPipelineSparseDist does, which takes forward and backward as one call of a model: which rows a batch
looks up depends on nothing that training changes, so it can travel early. First how many each rank gets, then the rows.
"""

from dataclasses import dataclass

from torchrec import KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionContext
from torchrec.distributed.types import Awaitable

from dlrm_adahessian.embeddings.torchrec_kernel import ShardedRows


@dataclass
class _Sent:
    """Lookups on their way."""

    kjt: KeyedJaggedTensor
    context: EmbeddingBagCollectionContext
    counts: Awaitable[Awaitable[KJTList]]
    rows: Awaitable[KJTList] | None = None

    def advance(self) -> Awaitable[KJTList]:
        """Wait for the counts, and send the rows; once."""
        if self.rows is None:
            self.rows = self.counts.wait()
        return self.rows


class LookupsAhead:
    """Sends the lookups of one batch ahead; all ranks call it in the same order."""

    def __init__(self, rows: ShardedRows) -> None:
        self._rows = rows
        self._next: _Sent | None = None

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Begin to send the lookups of the next batch; those of one that was not looked up are forgotten."""
        self._next = self._begun(kjt)

    def advance(self) -> None:
        """Send the rows after the counts, which have had the time since `send`."""
        if self._next is not None:
            self._next.advance()

    def look_up(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled embeddings of a batch, sent ahead or not."""
        sent = self._next
        if sent is None or sent.kjt is not kjt:
            sent = self._begun(kjt)
        else:
            self._next = None
        return self._rows.compute_and_output_dist(sent.context, sent.advance().wait()).wait()

    def _begun(self, kjt: KeyedJaggedTensor) -> _Sent:
        context = self._rows.create_context()
        return _Sent(kjt, context, self._rows.input_dist(context, kjt))
