"""The folder of a comparison: comparison.json says what was asked, and no other comparison is written over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.data.config import MOVES_NOTHING
from dlrm_adahessian.errors import CheckpointError, UsageError
from dlrm_adahessian.runs.kinds import COMPARISON
from dlrm_adahessian.runs.sealed import DamagedFolderError, read_json, write_json
from dlrm_adahessian.runtime.settings import changes

_EXTENDS = ("optimizers", "models", "seeds", "trials", "refine", "searches")
_NO_RESULTS = ("out", "data_path", "schema", "device", "parallel")


def require_settings(config: CompareConfig) -> None:
    """Refuse other settings than those of the comparison in the folder, as `claim`, before the rows are known."""
    path = config.out / COMPARISON
    if path.exists():
        said = _read(path)
        _require_same(config, said, {**_settings(config), "prepared": said.get("prepared")})


def claim(config: CompareConfig, rows: str) -> None:
    """Write into the folder what is asked, unless something else was asked there before.

    More entrants, seeds and draws extend a comparison, and are taken. Other settings or rows are a UsageError that names
    each with both values, a damaged comparison.json is a CheckpointError.

    Args:
        config: of the comparison, whose folder it is.
        rows: fingerprint of the prepared rows.
    """
    path = config.out / COMPARISON
    asked = {**_settings(config), "prepared": rows}
    if path.exists():
        _require_same(config, _read(path), asked)
    write_json(path, asked)


def _require_same(config: CompareConfig, said: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if said == asked:
        return
    differing = [change for change in changes(said, asked) if not change.startswith("prepared ")]
    raise UsageError(
        f"a comparison keeps its rows and settings, and those of {config.out} differ: "
        f"{', '.join(differing) or 'the settings are the same, the content of the rows is not'}; leave these flags out, or "
        "name another folder with --out"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except DamagedFolderError as error:
        raise CheckpointError(
            f"{error}; restore it from a copy, or name another folder with --out"
        ) from error
    return found if isinstance(found, dict) else {}


def _settings(config: CompareConfig) -> dict[str, Any]:
    values = TypeAdapter(CompareConfig).dump_python(config, mode="json")
    kept = {key: value for key, value in values.items() if key not in (*_EXTENDS, *_NO_RESULTS)}
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in MOVES_NOTHING}
    return kept
