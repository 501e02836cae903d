"""Record the settings of a comparison in comparison.json, and refuse other settings in the same folder."""

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
"""Key in comparison.json of what joining processes need. Its value may change when a comparison continues."""


def require_settings(config: CompareConfig) -> None:
    """Refuse settings that differ from those of the comparison in the folder, as `claim` does, before the data is read."""
    path = config.out / COMPARISON
    if path.exists():
        said = _read(path)
        _require_same(config, said, {**_settings(config), "prepared": said.get("prepared")})


def claim(config: CompareConfig, rows: str, joining: Mapping[str, Any]) -> None:
    """Write comparison.json, unless the folder has a comparison with other settings.

    More entrants, seeds and trials extend a comparison. Other settings or data raise a UsageError that names each changed
    setting with both values, and a damaged comparison.json raises a CheckpointError.

    Args:
        config: settings of the comparison, with its folder.
        rows: fingerprint of the prepared data.
        joining: what other processes need to join.
    """
    path = config.out / COMPARISON
    asked = {**_settings(config), "prepared": rows}
    if path.exists():
        _require_same(config, _read(path), asked)
    write_json(path, {**asked, JOINING: joining})


def asked_of(out: Path) -> dict[str, Any]:
    """Read comparison.json.

    Args:
        out: folder of a comparison.

    Returns:
        JSON values. A damaged file raises a CheckpointError.

    Raises:
        NoInputError: the file does not exist.
    """
    if not (out / COMPARISON).exists():
        raise NoInputError(
            f"{out} has no {COMPARISON}, because no comparison was started there or its data is still being prepared. Start "
            f"one with --out {out}, and join it once the file exists."
        )
    return _read(out / COMPARISON)


def _require_same(config: CompareConfig, said: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    said = {key: value for key, value in said.items() if key != JOINING}
    if said == asked:
        return
    differing = [change for change in changes(said, asked) if not change.startswith("prepared ")]
    raise UsageError(
        f"{config.out} has a comparison with other settings or data: "
        f"{', '.join(differing) or 'the settings are the same, but the data differs'}. Leave these flags out, or choose "
        "another --out."
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except DamagedFolderError as error:
        raise CheckpointError(f"{error}. Restore it from a backup, or choose another --out.") from error
    return found if isinstance(found, dict) else {}


def _settings(config: CompareConfig) -> dict[str, Any]:
    values = TypeAdapter(CompareConfig).dump_python(config, mode="json")
    kept = {key: value for key, value in values.items() if key not in (*_EXTENDS, *_NO_RESULTS)}
    kept["data"] = {key: value for key, value in kept["data"].items() if key not in MOVES_NOTHING}
    return kept
