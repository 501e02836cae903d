"""Who enters a comparison: models trained by optimizers, each under a name. Imports no torch.

Searches, final runs, figures and the report know an entrant by its name: that of its optimizer where all have one model,
that of its model where all have one optimizer, and MODEL/OPTIMIZER otherwise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from dlrm_adahessian.config import SharedConfig
from dlrm_adahessian.model.config import Architecture, DLRMConfig, ModelConfig
from dlrm_adahessian.presets import optimizer_name
from dlrm_adahessian.runtime.settings import validated

_OF_ALL = [field.name for field in fields(Architecture)]


@dataclass(frozen=True, kw_only=True)
class Entrant:
    """A model, and what trains it.

    Attributes:
        model: its settings.
        optimizer: name of the preset, or a file with one.
    """

    model: ModelConfig
    optimizer: str


def entrants_of(
    models: Sequence[str], optimizers: Sequence[str], given: ModelConfig
) -> Mapping[str, Entrant]:
    """Return each model with each optimizer, by name.

    Args:
        models: names of architectures, each once; without any, `given` is the model of all.
        optimizers: names of presets or files with them, each once.
        given: settings of the model; of another architecture they set what all architectures have.

    Returns:
        The entrants, models in order and within each its optimizers in order; the first is the reference. A setting of
        `given` that an architecture refuses is a UsageError.
    """
    if not models:
        return {optimizer_name(each): Entrant(model=given, optimizer=each) for each in optimizers}
    return {
        model if len(optimizers) == 1 else f"{model}/{optimizer_name(each)}": Entrant(
            model=_as(model, given), optimizer=each
        )
        for model in models
        for each in optimizers
    }


def settings_left_out(models: Sequence[str], given: ModelConfig) -> list[str]:
    """Return the settings of the given model that no entrant has, where its architecture is none of `models`."""
    if given.name in models:
        return []
    unnamed = {**asdict(type(given)()), "name": DLRMConfig().name}
    return [name for name, value in asdict(given).items() if name not in _OF_ALL and value != unnamed[name]]


def _as(name: str, given: ModelConfig) -> ModelConfig:
    if given.name == name:
        return given
    default = type(given)()
    changed: dict[str, Any] = {
        key: value for key in _OF_ALL if (value := getattr(given, key)) != getattr(default, key)
    }
    return validated(SharedConfig, {"model": {"name": name, **changed}}).model
