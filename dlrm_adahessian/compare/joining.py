# pyright: basic
"""How a process joins a comparison that another one began: by what that wrote under `joining` in comparison.json.

Which runs there are, and where, follows from the settings, the rows, the presets, the packages and the sources. All
processes find them by the same steps, so nobody has to hand them out. Where one of these differs, other runs would be
trained, which nobody asked for: that is refused.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import xxhash
from pydantic import TypeAdapter

from dlrm_adahessian import __version__
from dlrm_adahessian.compare.config import CompareConfig, run_config, settings_of
from dlrm_adahessian.compare.folder import JOINING, asked_of
from dlrm_adahessian.data.config import MOVES_NOTHING
from dlrm_adahessian.data.prepared.folder import PreparedData, open_prepared
from dlrm_adahessian.errors import DataError, UsageError
from dlrm_adahessian.runs.run_directory import packages
from dlrm_adahessian.runs.sealed import DamagedFolderError, fingerprint
from dlrm_adahessian.runtime.settings import changes, merged, validated
from dlrm_adahessian.train.run_cache import program

_HERE = Path(__file__).parent
_SETTINGS = (
    "optimizers", "models", "seeds", "trials", "refine", "searches", "lease", "data_path", "schema",
)  # fmt: skip
"""Those that comparison.json does not hold as a condition of going on."""


def joining(config: CompareConfig, data: PreparedData, device: str, threads: int) -> dict[str, Any]:
    """Return what others need to join a comparison, beside what comparison.json says of it anyway.

    Args:
        config: of the comparison.
        data: its samples.
        device: kind of the device that its runs compute on.
        threads: of each run; sums are rounded otherwise with another number of them.

    Returns:
        JSON values.
    """
    values = TypeAdapter(CompareConfig).dump_python(config, mode="json")
    settings = {key: values[key] for key in _SETTINGS}
    files = {name: str(Path(name).absolute()) for name in config.optimizer_names if name.endswith(".toml")}
    settings["optimizers"] = ",".join(files.get(name, name) for name in config.optimizer_names)
    settings["data"] = {key: values["data"][key] for key in MOVES_NOTHING}
    return {
        "settings": {**settings, "device": device},
        "threads": threads,
        "rows": str(data.folder.absolute()),
        "program": _program(),
        "entrants": _entrants(config),
    }


def joined(out: Path, parallel: int) -> tuple[CompareConfig, PreparedData, int]:
    """Return settings, samples and threads of each run of a comparison that another process began.

    Args:
        out: its folder.
        parallel: runs at once of this process.

    Returns:
        What that process has, but for `parallel`; that there is no comparison raises as `asked_of`.

    Raises:
        UsageError: the program or a preset differs here from what the comparison began with, or an earlier version began it.
        DataError: its prepared rows are not there, or are others.
    """
    said = asked_of(out)
    found, rows = said.pop(JOINING, None), said.pop("prepared", None)
    if found is None:
        raise UsageError(
            f"an earlier version began {out}, and did not write down what others need to join it; start its command again, "
            "which adds that"
        )
    _require_same(out, "program", found["program"], _program())
    config = validated(
        CompareConfig, {**merged(said, found["settings"]), "out": str(out), "parallel": parallel}
    )
    _require_same(out, "presets", found["entrants"], _entrants(config))
    folder = Path(found["rows"])
    try:
        data = open_prepared(folder)
    except DamagedFolderError as error:
        raise DataError(
            f"{error}; the prepared rows of a comparison must be on a disk that all its machines see, under one path: "
            "name a folder there with --data.cache-dir when it begins"
        ) from error
    if data.fingerprint != rows:
        raise DataError(f"{folder} holds other rows than {out} began with; start its command again")
    return config, data, found["threads"]


def _require_same(out: Path, what: str, began: dict[str, Any], here: dict[str, Any]) -> None:
    if began != here:
        differing = [change for change in changes(began, here) if not change.startswith("sources ")]
        raise UsageError(
            f"all processes of a comparison have the same program, packages and presets, and the {what} of {out} differ "
            f"here: {', '.join(differing) or 'the sources'}; install what it began with, or start its command again with "
            "what is here"
        )


def _entrants(config: CompareConfig) -> dict[str, Any]:
    """Return the settings of each entrant that are its own, as its preset has them."""
    return {name: settings_of(config, run_config(config, name, seed=config.seed)) for name in config.entrants}


def _program() -> dict[str, Any]:
    """Identify what decides which runs there are, and what they come to."""
    steering = [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in sorted(_HERE.glob("*.py"))]
    return {
        "version": __version__,
        "packages": {**packages(), "optuna": version("optuna")},
        "sources": fingerprint([program(), steering]),
    }
