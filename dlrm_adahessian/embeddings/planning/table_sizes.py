"""The sizes of published data sets, and of files that give others."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from dlrm_adahessian.data.synthetic.marginals import TOKENS
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.presets import preset_names, read_preset
from dlrm_adahessian.runtime.settings import read_toml, settings, validated


@settings
class TableSizes:
    """Tables, and the model that is usual with them."""

    rows: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    """Of each table."""
    model: ModelConfig = ModelConfig()


def table_sizes(name: str) -> TableSizes:
    """Return the sizes that a name or a file stands for.

    Args:
        name: `kaggle`, the stem of a file in presets/tables, or the path of such a file.

    Returns:
        The sizes; kaggle's are the distinct tokens of all rows, more than a vocabulary of the training rows has.

    Raises:
        UsageError: there is no such name, or the file breaks a rule.
    """
    if name == "kaggle":
        return TableSizes(rows=tuple(token.distinct for token in TOKENS))
    known = preset_names("tables")
    if name in known:
        return validated(TableSizes, read_preset("tables", name))
    if not name.endswith(".toml"):
        raise UsageError(
            f"tables are kaggle, {', '.join(known)} or a TOML file, got {name!r}; name one of these"
        )
    return validated(TableSizes, read_toml(Path(name)))
