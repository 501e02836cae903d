"""Which columns a row has, and what a model reads of each.

A schema comes with a dataset, or from a file of the user's; prepared rows, runs and exports carry it. Imports no torch.
"""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import StringConstraints, model_validator

from dlrm_adahessian.runtime.settings import settings, validated

Format = Literal["criteo"]
"""How the rows are written."""
Transform = Literal["log1p"]
"""Of a dense value x: log(1 + max(x, 0)), 0 where it is missing."""
_Name = Annotated[str, StringConstraints(pattern=r"^[\w-]+$")]


@settings
class DenseColumn:
    """A number."""

    name: _Name
    transform: Transform = "log1p"


@settings
class TokenColumn:
    """A categorical value, with an embedding table of the same name."""

    name: _Name


@settings
class Schema:
    """The columns of a click log."""

    format: Format
    dense: tuple[DenseColumn, ...] = ()
    tokens: tuple[TokenColumn, ...] = ()

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the K dense columns, in order."""
        return tuple(column.name for column in self.dense)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the F categorical columns, and of their tables, in order."""
        return tuple(column.name for column in self.tokens)

    @model_validator(mode="after")
    def _distinct(self) -> "Schema":
        names = [*self.dense_names, *self.features]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"names of columns must differ, and {', '.join(repeated)} occurs twice; rename one"
            )
        return self

    def asdict(self) -> dict[str, Any]:
        """Return the schema as JSON values."""
        return pydantic.TypeAdapter(Schema).dump_python(self, mode="json")


def from_dict(values: Any) -> Schema:
    """Validate a schema; see `validated`."""
    return validated(Schema, values)
