"""Read the presets in the package: optimizers, and schemas and table sizes of published data sets."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.settings import nearest, read_toml

OPTIMIZER_SETTINGS = ("curvature", "curvature_every", "curvature_fraction", "curvature_probes", "optim")
"""Settings that an optimizer preset may contain."""
_TOML = ".toml"

Kind = Literal["optimizers", "schemas", "tables"]


def preset_names(kind: Kind) -> list[str]:
    """Return the sorted names of all presets of a kind; empty if the installation lacks the files."""
    folder = files(__name__) / kind
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def read_preset(kind: Kind, name: str) -> dict[str, Any]:
    """Read the preset with a name from `preset_names`."""
    return read_toml(files(__name__) / kind / f"{name}.toml")


def optimizer_name(given: str) -> str:
    """Return the name of an optimizer given by preset name or TOML file; for a file, its stem."""
    return Path(given).stem if given.endswith(_TOML) else given


def optimizer_preset(name: str) -> dict[str, Any]:
    """Read the preset of an optimizer.

    Args:
        name: stem of a file in presets/optimizers, or a path to a user's TOML file.

    Returns:
        The settings as nested dicts.

    Raises:
        UsageError: the name is unknown, or a user's file has the name of a preset or contains other settings.
    """
    known = preset_names("optimizers")
    if name.endswith(_TOML):
        if (own := optimizer_name(name)) in known:
            raise UsageError(f"{own} is the name of a built-in preset. Rename {name}.")
        values = read_toml(Path(name))
        if others := [key for key in values if key not in OPTIMIZER_SETTINGS]:
            raise UsageError(
                f"An optimizer file may contain only {', '.join(OPTIMIZER_SETTINGS)}, but {name} has "
                f"{', '.join(others)}. Move these settings to the file of --config."
            )
        return values
    if name not in known:
        raise UsageError(f"optimizer must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
    return read_preset("optimizers", name)
