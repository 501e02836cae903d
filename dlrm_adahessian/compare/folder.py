"""The folder of a comparison: comparison.json says what was asked, and no other comparison is written over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from dlrm_adahessian.compare.config import CompareConfig
from dlrm_adahessian.data.config import MOVES_NOTHING
from dlrm_adahessian.errors import CheckpointError, NoInputError, UsageError
from dlrm_adahessian.runs.kinds import COMPARISON
from dlrm_adahessian.runs.sealed import DamagedFolderError, read_json, write_json
from dlrm_adahessian.runtime.settings import changes

_EXTENDS = ("optimizers", "models", "seeds", "trials", "refine", "searches")
_NO_RESULTS = ("out", "data_path", "schema", "device", "parallel", "lease")
JOINING = "joining"
"""What comparison.json holds for those who join; it may change from one start to the next."""


def require_settings(config: CompareConfig) -> None:
    """Refuse other settings than those of the comparison in the folder, as `claim`, before the rows are known."""
    path = config.out / COMPARISON
    if path.exists():
        said = _read(path)
        _require_same(config, said, {**_settings(config), "prepared": said.get("prepared")})


def claim(config: CompareConfig, rows: str, joining: Mapping[str, Any]) -> None:
    """Write into the folder what is asked, unless something else was asked there before.

    More entrants, seeds and draws extend a comparison, and are taken. Other settings or rows are a UsageError that names
    each with both values, a damaged comparison.json is a CheckpointError.

    Args:
        config: of the comparison, whose folder it is.
        rows: fingerprint of the prepared rows.
        joining: what others need to join.
    """
    path = config.out / COMPARISON
    asked = {**_settings(config), "prepared": rows}
    if path.exists():
        _require_same(config, _read(path), asked)
    write_json(path, {**asked, JOINING: joining})


def asked_of(out: Path) -> dict[str, Any]:
    """Return what comparison.json says.

    Args:
        out: folder of a comparison.

    Returns:
        Its JSON values; a damaged file is a CheckpointError.

    Raises:
        NoInputError: there is none.
    """
    if not (out / COMPARISON).exists():
        raise NoInputError(
            f"{out} holds no {COMPARISON}: no comparison began there, or its rows are still being prepared; start one with "
            f"--out {out}, and join it when the file is there"
        )
    return _read(out / COMPARISON)


def _require_same(config: CompareConfig, said: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    said = {key: value for key, value in said.items() if key != JOINING}
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
