"""Which columns a row has, and what a model reads of each.

A schema comes with a dataset, or from a file of the user's; prepared rows, runs and exports carry it. Imports no torch.
"""

import re
from dataclasses import replace
from datetime import date
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from dlrm_adahessian.runtime.settings import settings, validated

Format = Literal["parquet", "csv", "tsv", "criteo"]
"""How the rows are written; criteo is its tab-separated text without a header, whose tokens are 8 hexadecimal digits."""
Transform = Literal["log1p", "none", "standardize"]
Time = Annotated[
    str | int | float, BeforeValidator(lambda time: time.isoformat() if isinstance(time, date) else time)
]
"""A number, or ISO 8601; TOML's dates and times are the latter without quotes."""
_NAME = re.compile(r"[\w-]+")


@settings
class Column:
    """A column of the file."""

    column: str
    """Its name in the file."""


@settings
class LabelColumn(Column):
    """1 for a click, 0 for none."""

    negative_rate: Annotated[float, Field(ge=1e-12, le=1)] = 1.0
    """Share of the rows without a click that the log keeps; it keeps all rows with one."""

    @property
    def sampled(self) -> bool:
        """Whether rows without a click were left out."""
        return self.negative_rate < 1


@settings
class NamedColumn(Column):
    """A column that a model reads."""

    name: str | None = None
    """Of the feature, and of its table: letters, digits, _ and -. Default: that of the column."""

    @property
    def feature(self) -> str:
        """Name of the feature."""
        return self.name or self.column


@settings
class DenseColumn(NamedColumn):
    """A number; a missing one is 0 after the transform."""

    transform: Transform = "log1p"
    """log1p is log(1 + max(x, 0)); standardize takes the mean and the deviation of the training part; none is x."""


@settings
class TokenColumn(NamedColumn):
    """A categorical value, text or a whole number, with an embedding table."""

    min_count: Annotated[int, Field(ge=1)] | None = None
    """Tokens seen fewer times in the training part share a row; default: `data.min_count`."""
    buckets: Annotated[int, Field(ge=1, le=2**31 - 2)] | None = None
    """Rows that hashed tokens share, in place of a vocabulary."""
    characters: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """First character taken of the text, from 0, and the one after the last; default: all."""

    @model_validator(mode="after")
    def _consistent(self) -> "TokenColumn":
        if self.min_count is not None and self.buckets is not None:
            raise ValueError(
                f"{self.feature} has buckets or a vocabulary with a min_count, not both; leave one out"
            )
        if self.characters is not None and self.characters[0] >= self.characters[1]:
            raise ValueError(
                f"characters of {self.feature} must end after they begin, got {list(self.characters)}; the second number "
                "is the character after the last"
            )
        return self


@settings
class BagColumn(TokenColumn):
    """Categorical values, any number a row, whose embeddings are added up; a list column, or text with a separator."""

    separator: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Between the values of a text; a list column needs none."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """Values of a row that count, the first ones; default: all."""


@settings
class SplitRule:
    """Which rows train, test and validate; the parts follow one another in the order of the rows."""

    by: Literal["order", "time", "files"] = "order"
    """Shares of the rows in their order; values of the time column; or names of files."""
    train: Annotated[float, Field(gt=0, lt=1)] | None = None
    """By order: share of the rows; default six sevenths, as of a week the last day tests."""
    test: Annotated[float, Field(gt=0, lt=1)] | None = None
    """By order: share of the rows, after those for training; default half of what is left. The rest validates."""
    test_from: Time | None = None
    """By time: the first time that tests."""
    validation_from: Time | None = None
    """By time: the first time that validates."""
    train_files: tuple[str, ...] = ()
    """By files: names or patterns of the files that train; default: all that neither test nor validate. Other files are not
    read."""
    test_files: tuple[str, ...] = ()
    """By files: names or patterns of the files that test; an input of one file is cut by order."""
    validation_files: tuple[str, ...] = ()
    """By files: names or patterns of the files that validate; default: the last half of the rows of those that test."""

    @model_validator(mode="after")
    def _complete(self) -> "SplitRule":
        given = {
            "time": self.test_from is not None and self.validation_from is not None,
            "files": bool(self.test_files),
            "order": True,
        }
        if not given[self.by]:
            named = {"time": "test_from and validation_from", "files": "test_files"}
            raise ValueError(f"a split by {self.by} needs {named[self.by]}; add them to [split]")
        if (self.train or 0) + (self.test or 0) >= 1:
            raise ValueError(
                f"split.train and split.test leave rows to validate, got {self.train} and {self.test}"
            )
        return self


@settings
class Schema:
    """The columns of a click log."""

    format: Format = "csv"
    header: tuple[str, ...] = ()
    """Names of the columns of text whose first line does not say them."""
    label: LabelColumn
    weight: Column | None = None
    """How many samples a row counts as, at least 0."""
    time: Column | None = None
    """Numbers or ISO 8601 times, by which the rows are in order."""
    dense: tuple[DenseColumn, ...] = ()
    tokens: tuple[TokenColumn, ...] = ()
    bags: tuple[BagColumn, ...] = ()
    split: SplitRule = SplitRule()

    @property
    def dense_names(self) -> tuple[str, ...]:
        """Names of the K dense columns, in order."""
        return tuple(column.feature for column in self.dense)

    @property
    def categorical(self) -> tuple[TokenColumn, ...]:
        """The F columns with tables: tokens, then bags."""
        return (*self.tokens, *self.bags)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the F categorical columns, and of their tables, in order."""
        return tuple(column.feature for column in self.categorical)

    @property
    def standardized(self) -> list[int]:
        """Places of the dense columns that are standardized."""
        return [place for place, column in enumerate(self.dense) if column.transform == "standardize"]

    @property
    def token_bits(self) -> int:
        """Bits of a token: Criteo's are numbers of 32, others hashes of 63."""
        return 63 if self.hashes_texts else 32

    @property
    def hashes_texts(self) -> bool:
        """Whether tokens are hashes of texts, which prepared rows keep; Criteo's are numbers."""
        return self.format != "criteo"

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [*self.dense_names, *self.features]
        if not names:
            raise ValueError("a model reads at least one column; name [[dense]], [[tokens]] or [[bags]]")
        if odd := next((name for name in names if not _NAME.fullmatch(name)), None):
            raise ValueError(
                f"a feature's name has letters, digits, _ and -, got {odd!r}; give the column another `name`"
            )
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"names of columns must differ, and {', '.join(repeated)} occurs twice; rename one by `name`"
            )
        if self.split.by == "time" and self.time is None:
            raise ValueError('a split by time needs a time column; add [time] column = "..."')
        return self

    def reads_as(self, other: "Schema") -> bool:
        """Tell whether rows that one schema reads are rows of the other too.

        Args:
            other: is to have the same label, weight, time and columns, with the same transforms and tokens. How the file is
                written does not matter, nor how rows are split and tokens get rows of tables.

        Returns:
            Whether they are.
        """
        return self.token_bits == other.token_bits and self._of_rows == other._of_rows

    @property
    def _of_rows(self) -> tuple[Any, ...]:
        """What a row holds once it is read."""
        unplaced: dict[str, Any] = {"min_count": None, "buckets": None}
        tokens = [replace(column, **unplaced) for column in self.tokens]
        bags = [replace(column, **unplaced, separator=None) for column in self.bags]
        return self.label, self.weight, self.time, self.dense, tokens, bags

    def asdict(self) -> dict[str, Any]:
        """Return the schema as JSON values; without what says nothing and was no setting once."""
        values = pydantic.TypeAdapter(Schema).dump_python(self, mode="json", exclude_none=True)
        if not self.label.sampled:
            del values["label"]["negative_rate"]
        if not self.split.train_files:
            del values["split"]["train_files"]
        return values


def from_dict(values: Any) -> Schema:
    """Validate a schema; see `validated`."""
    return validated(Schema, values)
