"""Group the flags of a command under headings, with the flags of a first run at the top.

tyro prints one heading per settings class. This module builds such classes for the help alone, so the names of settings in
TOML files and config.json do not depend on the headings.
"""

import ast
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tyro.conf import arg

from dlrm_adahessian.model.registry import ModelName
from dlrm_adahessian.presets import preset_names

Headings = Mapping[str, Sequence[str]]
"""Names of settings by heading."""
ROWS = ("dataset", "data_path", "schema", "rows", "bad_rows")
"""Settings that select the data of a command."""
_OF_PRESETS = ("optimizer", "optimizers")


@dataclasses.dataclass(frozen=True)
class ReadBefore:
    """Flags that are read first, because the defaults of the others depend on them."""

    config: Path | None = None
    """TOML file of settings; flags override it."""
    model: ModelName | None = None
    """Architecture (default: dlrm). Its settings are flags too."""


@dataclasses.dataclass(frozen=True)
class WithRates(ReadBefore):
    """`ReadBefore`, and the short flags of the learning rates."""

    lr: float | None = None
    """Learning rate of the MLPs; short for --optim.dense.lr."""
    rows_lr: float | None = None
    """Learning rate of the embedding rows; short for --optim.rows.lr."""


class _Flag(NamedTuple):
    """A setting as tyro sees it, with the value that the help shows as the default."""

    name: str
    hint: Any
    value: Any


class Layout(NamedTuple):
    """The headings of a help page.

    Attributes:
        basic: headings of --help.
        advanced: further headings of --help-all, which also shows all settings without a heading.
        before: flags in addition to the settings. They replace settings of the same name.
    """

    basic: Headings
    advanced: Headings = MappingProxyType({})
    before: ReadBefore | None = None


def under_headings(base: Any, layout: Layout, *, everything: bool) -> Any:
    """Group settings under the headings of a layout.

    Args:
        base: the settings.
        layout: the headings.
        everything: whether to show all settings, not only the basic ones. Nested settings come last, each under its name.

    Returns:
        An instance of a class made for this help page. tyro shows its values as defaults.
    """
    flags = _flags(base)
    shown = {**flags, **(_flags(layout.before) if layout.before else {})}
    headings = {**layout.basic, **(layout.advanced if everything else {})}
    parts: list[_Flag] = []
    if everything:
        parts = [flag for flag in flags.values() if dataclasses.is_dataclass(flag.value)]
        taken = {*(name for names in headings.values() for name in names), *(part.name for part in parts)}
        headings["further"] = [name for name in flags if name not in taken]
    groups = {title: _made([shown[name] for name in names]) for title, names in headings.items()}
    heads = [_Flag(title, Annotated[type(group), arg(name=title)], group) for title, group in groups.items()]
    return _made([*heads, *parts])


def _flags(settings: Any) -> dict[str, _Flag]:
    """Return the flags of some settings by name. Flags of single values get their help text and no prefix."""
    kind = type(settings)
    hints, described = get_type_hints(kind, include_extras=True), descriptions(kind)
    found: dict[str, _Flag] = {}
    for name in (field.name for field in dataclasses.fields(kind)):
        hint, value = hints[name], getattr(settings, name)
        if name in _OF_PRESETS:
            described[name] += f" Presets: {', '.join(preset_names('optimizers'))}."
        if not dataclasses.is_dataclass(value):
            hint = Annotated[hint, arg(prefix_name=False, help=described[name], **_optional(hint, value))]
        found[name] = _Flag(name, hint, value)
    return found


def _optional(hint: Any, value: Any) -> dict[str, Any]:
    """Return how to show an optional flag: without {None} among its values, and without an empty default."""
    shown: dict[str, Any] = {"help_behavior_hint": ""} if value in (None, ()) else {}
    if NoneType in get_args(hint):
        [given] = (kind for kind in get_args(hint) if kind is not NoneType)
        choices = f"{{{','.join(get_args(given))}}}" if get_origin(given) is Literal else None
        shown["metavar"] = choices or (get_args(given) or (given,))[0].__name__.upper()
    return shown


def _made(flags: Sequence[_Flag]) -> Any:
    fields = [
        (name.replace(" ", "_"), hint, dataclasses.field(default_factory=lambda value=value: value))
        for name, hint, value in flags
    ]
    kind = dataclasses.make_dataclass("Flags", fields, frozen=True)
    kind.__doc__ = ""  # tyro would print the default docstring, which lists the fields
    return kind()


def descriptions(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass, inherited fields included, each as one line."""
    found: dict[str, str] = {}
    for each in reversed([base for base in kind.__mro__ if hasattr(base, "__dataclass_fields__")]):
        [made] = (node for node in ast.parse(inspect.getsource(each)).body if isinstance(node, ast.ClassDef))
        for field, text in pairwise(made.body):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                    found[name] = " ".join(said.split())
                case _:
                    pass
    return found
