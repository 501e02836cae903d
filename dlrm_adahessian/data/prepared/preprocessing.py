"""From a raw row to what a model reads of it: the schema, and what was learnt from the training part."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dlrm_adahessian.data.criteo.columns import CRITEO
from dlrm_adahessian.data.prepared.vocabulary import Encoder, Vocabulary
from dlrm_adahessian.data.rows import Features, RowBlock
from dlrm_adahessian.data.schema import Schema, from_dict


@dataclass(frozen=True)
class Preprocessing:
    """What turns rows into features.

    Attributes:
        schema: the columns.
        vocabulary: tokens to table rows.
    """

    schema: Schema
    vocabulary: Vocabulary

    @cached_property
    def _encoder(self) -> Encoder:
        return self.vocabulary.encoder(len(self.schema.dense))

    def features(self, block: RowBlock) -> Features:
        """Return the features of rows as they were read."""
        return Features(dense=block.dense, ids=self._encoder.encode(block.tokens, block.missing))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what was learnt into a folder, and return what its manifest has to say for `load`."""
        self.vocabulary.save(folder)
        return {"schema": self.schema.asdict()}

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any]) -> "Preprocessing":
        """Read what `save` wrote; before there were schemas, all rows were Criteo's."""
        schema = manifest.get("schema")
        return cls(CRITEO if schema is None else from_dict(schema), Vocabulary.load(folder))
