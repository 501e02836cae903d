"""Implement `schema`: draft a schema from a data file, and show what a schema reads."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from tyro.conf import Positional, arg, subcommand

from dlrm_adahessian.commands.arguments import HELP, parsed
from dlrm_adahessian.data.published import schema_of
from dlrm_adahessian.data.text.sources import input_files, is_pipe
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.runs.files import new_file
from dlrm_adahessian.runs.sealed import require_writable, storage_errors
from dlrm_adahessian.runtime.settings import nearest, settings
from dlrm_adahessian.runtime.terminal import printable_name, say

if TYPE_CHECKING:
    from dlrm_adahessian.data.preview import Preview

_FLUSH_RIGHT = (3, 4)  # columns of the printed table


@settings
class InferConfig:
    """Draft a schema from the first samples of a file."""

    file: Annotated[Path, Positional]
    """Parquet, CSV, or TSV file, plain or compressed."""
    out: Path | None = None
    """TOML file to write (must not exist); default: standard output."""
    rows: Annotated[int, Field(ge=1)] = 1_000_000
    """Number of samples to look at, from the start of the file."""


@settings
class CheckConfig:
    """Show what a schema reads from the data, and report what training would refuse."""

    schema: Path
    """TOML file describing the columns (docs/own-data.md)."""
    data_path: str
    """Data file (plain or compressed), or folder of files."""
    rows: Annotated[int, Field(ge=1)] = 100_000
    """Number of samples to read, from the start of the data."""


@dataclass(frozen=True)
class SchemaConfig:
    """Draft a schema from a data file, or check one."""

    action: Annotated[
        Annotated[InferConfig, subcommand("infer")] | Annotated[CheckConfig, subcommand("check")],
        arg(name=""),
    ]


def schema(arguments: Sequence[str]) -> int:
    """Draft a schema for your own data, or check what it reads."""
    prog, action = "python -m dlrm_adahessian schema", next(iter(arguments), None)
    if action == "infer":
        _infer(parsed(InferConfig, arguments[1:], prog=f"{prog} infer"))
    elif action == "check":
        _check(parsed(CheckConfig, arguments[1:], prog=f"{prog} check"))
    elif action in HELP:
        parsed(SchemaConfig, arguments, prog=prog)
    else:
        raise UsageError(
            f"schema requires an action (infer or check), but got {action or 'none'}"
            f"{nearest(action, ['infer', 'check']) if action else '.'}"
        )
    return 0


def _infer(args: InferConfig) -> None:
    if args.out is not None:
        require_writable(args.out.parent, "--out")
        if os.path.lexists(args.out):
            raise UsageError(f"File already exists: {args.out}. Choose another --out.")
    from dlrm_adahessian.data.columnar.guess import guess_roles, schema_text
    from dlrm_adahessian.data.columnar.own_file import profile_file

    profile = profile_file(args.file, rows=args.rows)
    text = schema_text(profile, guess_roles(profile.columns))
    if args.out is None:
        say(text.rstrip("\n"))
        return
    with storage_errors(args.out), new_file(args.out) as file:
        file.write(text.encode())


def _check(args: CheckConfig) -> None:
    schema = schema_of("criteo", args.schema)
    if is_pipe(args.data_path):
        raise UsageError(
            f"schema check reads the data twice, but {args.data_path} is a pipe. Pass a file or a folder."
        )
    input_files(args.data_path, schema.format)  # refuses missing files before the slow imports
    from dlrm_adahessian.data.preview import preview

    say(preview_text(preview(schema, args.data_path, rows=args.rows)))


def preview_text(found: "Preview") -> str:
    """Format what a schema reads as a table."""
    rows = [
        (
            column.name,
            column.reading,
            column.type,
            "" if column.missing is None else f"{column.missing:.1%}",
            "" if column.distinct is None else f"{column.distinct:,}",
            column.example,
        )
        for column in found.columns
    ]
    table = [("column", "read as", "type", "missing", "distinct", "example"), *rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    lines = [
        f"{'All' if found.parts else 'The first'} {found.rows:,} samples, {found.clicks / found.rows:.2%} clicks:",
        "",
    ]
    for cells in table:
        aligned = [
            f"{printable_name(cell):{'>' if place in _FLUSH_RIGHT else '<'}{width}}"
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    lines += [
        "",
        f"not read: {', '.join(map(printable_name, found.others)) or 'no column'}",
        f"split {found.split}",
    ]
    if found.parts is not None:
        lines.append("samples in these parts: {:,}, {:,}, {:,}".format(*found.parts))
    return "\n".join(lines)
