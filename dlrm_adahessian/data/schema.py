"""Describe the columns of a click log, and how a model reads each of them.

A schema belongs to a dataset or comes from a user's file. Prepared data, runs, and exports store it. Imports no torch.
"""

import re
from dataclasses import replace
from datetime import date
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from dlrm_adahessian.runtime.settings import settings, validated

Format = Literal["parquet", "csv", "tsv", "criteo"]
"""File format. criteo is Criteo's tab-separated text without a header, with tokens of 8 hexadecimal digits."""
Transform = Literal["log1p", "none", "standardize"]
Time = Annotated[
    str | int | float, BeforeValidator(lambda time: time.isoformat() if isinstance(time, date) else time)
]
"""A number or an ISO 8601 time. Dates and times of TOML need no quotes."""
_NAME = re.compile(r"[\w-]+")


@settings
class Column:
    """A column of the file."""

    column: str
    """Name in the file."""


@settings
class LabelColumn(Column):
    """The label: 1 for a click, 0 for none."""

    negative_rate: Annotated[float, Field(ge=1e-12, le=1)] = 1.0
    """Share of the samples without a click that the log keeps. It keeps all clicks."""

    @property
    def sampled(self) -> bool:
        """Whether the log is downsampled."""
        return self.negative_rate < 1


@settings
class NamedColumn(Column):
    """A column that is a feature."""

    name: str | None = None
    """Name of the feature and its table: letters, digits, _ and -. Default: name of the column."""

    @property
    def feature(self) -> str:
        """Name of the feature."""
        return self.name or self.column


@settings
class DenseColumn(NamedColumn):
    """A numeric feature. A missing value is 0 after the transform."""

    transform: Transform = "log1p"
    """log1p is log(1 + max(x, 0)); standardize uses mean and deviation of the training part; none is x."""


@settings
class TokenColumn(NamedColumn):
    """A categorical feature of text or integers, with an embedding table."""

    min_count: Annotated[int, Field(ge=1)] | None = None
    """Tokens that occur less often in the training part share a row. Default: `data.min_count`."""
    buckets: Annotated[int, Field(ge=1, le=2**31 - 2)] | None = None
    """Number of embedding rows for hashed tokens, instead of a vocabulary."""
    characters: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = None
    """Start (from 0) and end (exclusive) of the characters to use. Default: all."""

    @model_validator(mode="after")
    def _consistent(self) -> "TokenColumn":
        if self.min_count is not None and self.buckets is not None:
            raise ValueError(
                f"{self.feature} sets both buckets and min_count, but min_count needs a vocabulary. Remove one of them."
            )
        if self.characters is not None and self.characters[0] >= self.characters[1]:
            raise ValueError(
                f"characters of {self.feature} must end after they begin, got {list(self.characters)}. The second number "
                "is the character after the last."
            )
        return self


@settings
class BagColumn(TokenColumn):
    """A categorical feature with any number of values per sample, from a list column or from text with a separator."""

    separator: Annotated[str, StringConstraints(min_length=1)] | None = None
    """Separator of the values in text. List columns need none."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """Largest number of values per sample; the first ones are used. Default: all."""


@settings
class SplitRule:
    """The split into consecutive training, test, and validation parts."""

    by: Literal["order", "time", "files"] = "order"
    """Split by shares of the samples in order, by values of the time column, or by file names."""
    train: Annotated[float, Field(gt=0, lt=1)] | None = None
    """By order: share of training samples. Default: six sevenths, all but the last day of a week."""
    test: Annotated[float, Field(gt=0, lt=1)] | None = None
    """By order: share of test samples, after the training samples. Default: half of the rest. What remains validates."""
    test_from: Time | None = None
    """By time: start of the test part."""
    validation_from: Time | None = None
    """By time: start of the validation part."""
    train_files: tuple[str, ...] = ()
    """By files: names or patterns of the training files. Default: all except test and validation files. Other files are
    not read."""
    test_files: tuple[str, ...] = ()
    """By files: names or patterns of the test files. An input of a single file is split by order."""
    validation_files: tuple[str, ...] = ()
    """By files: names or patterns of the validation files. Default: the last half of the test samples."""

    @model_validator(mode="after")
    def _complete(self) -> "SplitRule":
        given = {
            "time": self.test_from is not None and self.validation_from is not None,
            "files": bool(self.test_files),
            "order": True,
        }
        if not given[self.by]:
            named = {"time": "test_from and validation_from", "files": "test_files"}
            raise ValueError(f"A split by {self.by} requires {named[self.by]}. Add them to [split].")
        if (self.train or 0) + (self.test or 0) >= 1:
            raise ValueError(
                f"split.train and split.test must add up to less than 1, got {self.train} and {self.test}; the rest "
                "validates."
            )
        return self


@settings
class Schema:
    """The columns of a click log."""

    format: Format = "csv"
    header: tuple[str, ...] = ()
    """Column names for text without a header line."""
    label: LabelColumn
    weight: Column | None = None
    """Sample weights, at least 0."""
    time: Column | None = None
    """Numbers or ISO 8601 times, in nondecreasing order."""
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
        """The F categorical columns: tokens, then bags."""
        return (*self.tokens, *self.bags)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the F categorical features and their tables, in order."""
        return tuple(column.feature for column in self.categorical)

    @property
    def standardized(self) -> list[int]:
        """Indices of the standardized dense columns."""
        return [place for place, column in enumerate(self.dense) if column.transform == "standardize"]

    @property
    def token_bits(self) -> int:
        """Bits of a token: 32 for Criteo's numbers, 63 for hashes of text."""
        return 63 if self.hashes_texts else 32

    @property
    def hashes_texts(self) -> bool:
        """Whether tokens are hashes of texts, which prepared data stores. Criteo's tokens are numbers."""
        return self.format != "criteo"

    @model_validator(mode="after")
    def _consistent(self) -> "Schema":
        names = [*self.dense_names, *self.features]
        if not names:
            raise ValueError("A schema needs at least one feature. Add [[dense]], [[tokens]] or [[bags]].")
        if odd := next((name for name in names if not _NAME.fullmatch(name)), None):
            raise ValueError(
                f"Feature names may contain only letters, digits, _ and -, got {odd!r}. Give the column another `name`."
            )
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"Feature names must be unique, but {', '.join(repeated)} occurs twice. Rename one with `name`."
            )
        if self.split.by == "time" and self.time is None:
            raise ValueError('A split by time requires a time column. Add [time] column = "...".')
        return self

    def reads_as(self, other: "Schema") -> bool:
        """Return whether two schemas read the same samples.

        Args:
            other: schema to compare. Label, weight, time, columns, transforms, and tokens must be equal. File format, split,
                and assignment of tokens to embedding rows may differ.

        Returns:
            True if they do.
        """
        return self.token_bits == other.token_bits and self._of_rows == other._of_rows

    @property
    def _of_rows(self) -> tuple[Any, ...]:
        """Everything that determines the contents of a sample."""
        unplaced: dict[str, Any] = {"min_count": None, "buckets": None}
        tokens = [replace(column, **unplaced) for column in self.tokens]
        bags = [replace(column, **unplaced, separator=None) for column in self.bags]
        return self.label, self.weight, self.time, self.dense, tokens, bags

    def asdict(self) -> dict[str, Any]:
        """Return the schema as JSON values. Newer settings are left out at their defaults, to keep old fingerprints."""
        values = pydantic.TypeAdapter(Schema).dump_python(self, mode="json", exclude_none=True)
        if not self.label.sampled:
            del values["label"]["negative_rate"]
        if not self.split.train_files:
            del values["split"]["train_files"]
        return values


def from_dict(values: Any) -> Schema:
    """Validate a schema. See `validated`."""
    return validated(Schema, values)
