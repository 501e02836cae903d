"""Settings that the package brings along, by name: optimizers, schemas and table sizes of published data sets."""

from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runtime.settings import nearest, read_toml

OPTIMIZER_SETTINGS = ("curvature", "curvature_every", "curvature_fraction", "curvature_probes", "optim")
"""Settings of a run that are its optimizer's own."""
_TOML = ".toml"

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


def optimizer_name(given: str) -> str:
    """Return what an optimizer is called that is given by its name, or by a TOML file of the user's: the stem of that."""
    return Path(given).stem if given.endswith(_TOML) else given


def optimizer_preset(name: str) -> dict[str, Any]:
    """Read the preset of an optimizer.

    Args:
        name: stem of a file in presets/optimizers, or a TOML file of the user's.

    Returns:
        Its tables.

    Raises:
        UsageError: there is none of that name, or a user's file has the name of one, or settings of other things.
    """
    known = preset_names("optimizers")
    if name.endswith(_TOML):
        if (own := optimizer_name(name)) in known:
            raise UsageError(f"{own} is a preset of this program; give {name} another name")
        values = read_toml(Path(name))
        if others := [key for key in values if key not in OPTIMIZER_SETTINGS]:
            raise UsageError(
                f"the file of an optimizer holds its own settings, {', '.join(OPTIMIZER_SETTINGS)}, and {name} has "
                f"{', '.join(others)}; move these to the file of --config"
            )
        return values
    if name not in known:
        raise UsageError(f"optimizer must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
    return read_preset("optimizers", name)
