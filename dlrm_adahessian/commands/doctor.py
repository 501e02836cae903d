"""Implement `doctor`: check the packages, imports, device and data files of this installation."""

import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from dlrm_adahessian import __version__
from dlrm_adahessian.commands.arguments import parsed
from dlrm_adahessian.config import composed
from dlrm_adahessian.errors import ProgramError
from dlrm_adahessian.presets import preset_names
from dlrm_adahessian.runtime.settings import settings
from dlrm_adahessian.runtime.terminal import say

_DISTRIBUTION = "dlrm-adahessian"
_PYTHON = ">=3.11"
_FBGEMM = Requirement("fbgemm-gpu==1.8.0")  # must match torch's minor version; torchrec does not pin it
_LOADED = ("torch", "fbgemm_gpu", "torchrec", "numba")
_REINSTALL = (
    "Reinstall with make setup, or with pip install ./packaging/fbgemm-gpu . on a machine without a GPU."
)


@settings
class DoctorConfig:
    """Check that this installation can train, and suggest a fix for each problem."""


class Finding(NamedTuple):
    """One line of output: what was checked, what was found, and how to fix it (None if it is fine)."""

    what: str
    found: str
    remedy: str | None = None


def doctor(arguments: Sequence[str]) -> int:
    """Check that this installation can train, and suggest a fix for each problem."""
    parsed(DoctorConfig, arguments, prog="python -m dlrm_adahessian doctor")
    problems = 0
    for what, found, remedy in diagnose():
        say(f"{what:<20}{found:<28}{f'PROBLEM: {remedy}' if remedy else 'ok'}")
        sys.stdout.flush()  # the imports of the next checks take seconds
        problems += remedy is not None
    say(f"Problems found: {problems}. See above." if problems else "No problems found.")
    return 1 if problems else 0


def diagnose() -> Iterator[Finding]:
    """Yield the findings, with each package after those that it depends on."""
    yield Finding("version", __version__)
    python = platform.python_version()
    fits = python in SpecifierSet(_PYTHON)
    yield Finding("python", python, None if fits else f"Python {_PYTHON} is required.")
    yield from map(_package, [*_requirements(), _FBGEMM])
    yield from (_tried(f"import {name}", lambda name=name: _loaded(name)) for name in _LOADED)
    yield _tried("device", _device)
    yield _tried("optimizer presets", _presets)
    yield _tried("table sizes", lambda: _counted(preset_names("tables")))
    templates = files("dlrm_adahessian.report") / "templates"
    yield _tried(
        "report templates",
        lambda: _counted([file.name for file in templates.iterdir() if ".j2" in file.name]),
    )


def _requirements() -> list[Requirement]:
    """Return the requirements of this package without extras; empty if the package is not installed."""
    try:
        asked = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        asked = []
    found = map(Requirement, asked)
    return [asked for asked in found if asked.marker is None or asked.marker.evaluate({"extra": ""})]


def _package(asked: Requirement) -> Finding:
    wanted = f"{asked.name} {asked.specifier} is required. {_REINSTALL}"
    try:
        found = importlib.metadata.version(asked.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(asked.name, "not installed", wanted)
    return Finding(asked.name, found, None if asked.specifier.contains(found, prereleases=True) else wanted)


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except ProgramError as error:
        return Finding(what, "not usable", str(error))
    except (
        ImportError,
        OSError,
        AttributeError,
        RuntimeError,
    ) as error:  # FBGEMM raises any of these if it cannot load
        return Finding(what, "failed", f"{error}. {_REINSTALL}")


def _loaded(name: str) -> str:
    importlib.import_module(name)
    return "loads"


def _device() -> str:
    from dlrm_adahessian.runtime.device import find_device

    return str(find_device("auto"))


def _presets() -> str:
    names = preset_names("optimizers")
    for name in names:
        composed({}, name)
    return _counted(names)


def _counted(names: Sequence[str]) -> str:
    if not names:
        raise FileNotFoundError("The files are missing from this installation")
    return f"{len(names)} found"
