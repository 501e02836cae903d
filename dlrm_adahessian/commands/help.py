"""Help of commands with many flags: under headings, those that a first run needs before all others.

The flags library makes a heading of each class of settings. So that settings keep their names in files and in config.json,
their fields are put under headings here, in classes that are made for showing them.
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
"""Names of settings, by what they are about."""
ROWS = ("dataset", "data_path", "schema", "rows", "bad_rows")
"""Settings that say which rows a command reads."""
_OF_PRESETS = ("optimizer", "optimizers")


@dataclasses.dataclass(frozen=True)
class ReadBefore:
    """Flags that are read before all others, whose defaults depend on them."""

    config: Path | None = None
    """TOML file of settings; flags win over it."""
    model: ModelName | None = None
    """Architecture, dlrm where nothing names one; its settings are flags too."""


@dataclasses.dataclass(frozen=True)
class WithRates(ReadBefore):
    """And the short names of the learning rates."""

    lr: float | None = None
    """Learning rate of the MLPs; short for --optim.dense.lr."""
    rows_lr: float | None = None
    """Learning rate of the embedding rows; short for --optim.rows.lr."""


class _Flag(NamedTuple):
    """A setting as the flags library is told of it, and its value, which is shown as the default."""

    name: str
    hint: Any
    value: Any


class Layout(NamedTuple):
    """What help shows of settings, and under which headings.

    Attributes:
        basic: for --help.
        advanced: for --help-all, which also shows what no heading names.
        before: flags beside the settings, which headings may name; they win over settings of the same name.
    """

    basic: Headings
    advanced: Headings = MappingProxyType({})
    before: ReadBefore | None = None


def under_headings(base: Any, layout: Layout, *, everything: bool) -> Any:
    """Return settings with the flags of others, under headings.

    Args:
        base: the settings.
        layout: the headings.
        everything: not the basic ones alone. Parts of `base` that are settings themselves come last, each under its name.

    Returns:
        An instance of a class that is made for them. The flags library shows its values as defaults.
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
    """Return the flags of settings by name; those of single values are described and stand without a prefix."""
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
    """Return how a flag that may be left out is shown: without a None that nobody types, or an empty default."""
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
    kind.__doc__ = ""  # the default one lists the fields, and would be shown
    return kind()


def descriptions(kind: type) -> dict[str, str]:
    """Return what the source says below each field of a class, or of one that it inherits from, on one line."""
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
