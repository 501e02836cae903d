# pyright: basic
"""Join a comparison that another process started, with the information under `joining` in its comparison.json.

Settings, data, presets, packages and sources determine the runs and their folders. All processes derive the same list of
runs from them, so no process has to distribute work. A process where one of these differs would train other runs, and is
refused.
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
"""Settings that may change when a comparison continues, and which comparison.json therefore has under `joining`."""


def joining(config: CompareConfig, data: PreparedData, device: str, threads: int) -> dict[str, Any]:
    """Return what other processes need to join a comparison, in addition to the rest of comparison.json.

    Args:
        config: settings of the comparison.
        data: samples of the comparison.
        device: type of the device that its runs compute on.
        threads: number of threads of each run. Another number would change the rounding of sums.

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
    """Return the settings, samples, and threads per run of a comparison that another process started.

    Args:
        out: folder of the comparison.
        parallel: number of runs that this process trains at once.

    Returns:
        The values of the process that started it, with this `parallel`. `asked_of` raises if there is no comparison.

    Raises:
        UsageError: the program or a preset differs from those at the start, or an earlier version started the comparison.
        DataError: the prepared data is missing or has changed.
    """
    said = asked_of(out)
    found, rows = said.pop(JOINING, None), said.pop("prepared", None)
    if found is None:
        raise UsageError(
            f"{out} was started by an earlier version, which did not record what joining requires. Run its command again to "
            "add that."
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
            f"{error}. The prepared data of a comparison must be on a disk that all machines share, under the same path. "
            "Start the comparison with --data.cache-dir on such a disk."
        ) from error
    if data.fingerprint != rows:
        raise DataError(f"The data in {folder} has changed since {out} was started. Run its command again.")
    return config, data, found["threads"]


def _require_same(out: Path, what: str, began: dict[str, Any], here: dict[str, Any]) -> None:
    if began != here:
        differing = [change for change in changes(began, here) if not change.startswith("sources ")]
        raise UsageError(
            f"All processes of a comparison need the same program, packages and presets, but the {what} of {out} differ "
            f"here: {', '.join(differing) or 'the sources'}. Install the versions that it was started with, or run its "
            "command again with the versions here."
        )


def _entrants(config: CompareConfig) -> dict[str, Any]:
    """Return the settings of each entrant as its preset defines them."""
    return {name: settings_of(config, run_config(config, name, seed=config.seed)) for name in config.entrants}


def _program() -> dict[str, Any]:
    """Return versions and fingerprints of everything that determines the runs and their results."""
    steering = [xxhash.xxh3_64_hexdigest(path.read_bytes()) for path in sorted(_HERE.glob("*.py"))]
    return {
        "version": __version__,
        "packages": {**packages(), "optuna": version("optuna")},
        "sources": fingerprint([program(), steering]),
    }
