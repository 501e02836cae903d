# pyright: basic
"""Lookups that go to the ranks which hold their rows ahead of their turn, while the batch before them is worked on.

What TorchRec's TrainPipelineSparseDist does, which takes forward and backward as one call of a model: which rows a batch
looks up depends on nothing that training changes, so it can travel early. First how many each rank gets, then the rows.
"""

from collections import deque
from dataclasses import dataclass

from torchrec import KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.embedding_types import KJTList
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionContext
from torchrec.distributed.types import Awaitable

from dlrm_adahessian.distributed.row_kernel import ShardedRows


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
    """Sends lookups early, in the same order on all ranks, and looks up in that order."""

    def __init__(self, rows: ShardedRows) -> None:
        self._rows = rows
        self._sent: deque[_Sent] = deque()

    def send(self, kjt: KeyedJaggedTensor) -> None:
        """Begin to send the lookups of a batch; `look_up` takes batches in the order in which they were sent."""
        self._sent.append(self._begun(kjt))

    def look_up(self, kjt: KeyedJaggedTensor) -> KeyedTensor:
        """Return the pooled embeddings of a batch, which may be sent now only; those sent ahead go on their way."""
        is_next = bool(self._sent) and self._sent[0].kjt is kjt
        sent = self._sent.popleft() if is_next else self._begun(kjt)
        pooled = self._rows.compute_and_output_dist(sent.context, sent.advance().wait())
        for waiting in self._sent:
            waiting.advance()
        return pooled.wait()

    def _begun(self, kjt: KeyedJaggedTensor) -> _Sent:
        context = self._rows.create_context()
        return _Sent(kjt, context, self._rows.input_dist(context, kjt))
