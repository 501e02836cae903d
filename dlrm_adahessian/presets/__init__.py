"""Settings that the package brings along, by name: optimizers, schemas and table sizes of published data sets."""

from importlib.resources import files
from typing import Any, Literal

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.settings import nearest, read_toml

Kind = Literal["optimizers", "schemas", "tables"]


def preset_names(kind: Kind) -> list[str]:
    """Return the names of all presets of a kind, sorted; none where the installation lacks the files."""
    folder = files(__name__) / kind
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read_preset(kind: Kind, name: str) -> dict[str, Any]:
    """Read the preset of a name that `preset_names` lists."""
    return read_toml(files(__name__) / kind / f"{name}.toml")


def optimizer_preset(name: str) -> dict[str, Any]:
    """Read the preset of an optimizer.

    Args:
        name: stem of a file in presets/optimizers.

    Returns:
        Its tables.

    Raises:
        UsageError: there is none of that name.
    """
    known = preset_names("optimizers")
    if name not in known:
        raise UsageError(f"optimizer must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
    return read_preset("optimizers", name)
