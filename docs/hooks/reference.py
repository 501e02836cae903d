"""MkDocs hook: the reference of flags and presets, as the program itself states them."""

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from importlib.resources import files as resources
from typing import Any
from unittest import mock

from mkdocs.structure.files import File

from dlrm_adahessian.cli import main
from dlrm_adahessian.commands import NAMES
from dlrm_adahessian.config import asdict, composed
from dlrm_adahessian.presets import OPTIMIZER_SETTINGS, preset_names

_ALL_FLAGS = ("train", "compare")
"""Commands whose --help shows the basic flags only."""
_SUBCOMMANDS = {"schema": (["schema", "infer"], ["schema", "check"])}


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/flags.md", content=_flags()))
    files.append(File.generated(config, "reference/presets.md", content=_presets()))
    return files


def _flags() -> str:
    page = [
        "# Flags of every command",
        "",
        "Each setting is also a key of a TOML file (`--config`): `--optim.dense.lr 0.01` is",
    ]
    page += ["`lr = 0.01` in the table `[optim.dense]`.", ""]
    for name in NAMES:
        for command in _SUBCOMMANDS.get(name, ([name],)):
            flag = "--help-all" if name in _ALL_FLAGS else "--help"
            page += [f"## {' '.join(command)}", "", "```text", _printed([*command, flag]).strip(), "```", ""]
    return "\n".join(page)


def _printed(arguments: list[str]) -> str:
    """Return what the program prints."""
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}),
        mock.patch("sys.argv", ["dlrm-adahessian"]),
        contextlib.redirect_stdout(io.StringIO()) as printed,
    ):
        code = main(arguments)
    if code:
        raise RuntimeError(f"{' '.join(arguments)} ended with {code}")
    return printed.getvalue()


def _presets() -> str:
    page = [
        "# Settings of every preset",
        "",
        "`--optimizer NAME` sets these. Every flag changes one of them.",
        "",
    ]
    for name in preset_names("optimizers"):
        text = (resources("dlrm_adahessian.presets") / "optimizers" / f"{name}.toml").read_text(
            encoding="utf-8"
        )
        comment = []
        for line in text.splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.removeprefix("#").strip())
        values = asdict(composed({}, name))
        page += [f"## {name}", "", " ".join(comment), "", "| flag | value |", "|---|---|"]
        page += [
            f"| `--{flag}` | {value} |"
            for flag, value in _dotted({key: values[key] for key in OPTIMIZER_SETTINGS})
        ]
        page.append("")
    return "\n".join(page)


def _dotted(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{above}{key.replace('_', '-')}"
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{name}.")
        elif value is not None:
            yield name, value
