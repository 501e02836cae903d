"""Combine models and optimizers into named entrants of a comparison. Imports no torch.

An entrant is named after its optimizer if all have the same model, after its model if all have the same optimizer, and
MODEL/OPTIMIZER otherwise.
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
    """A model and an optimizer.

    Attributes:
        model: settings of the model.
        optimizer: name of a preset, or path of a preset file.
    """

    model: ModelConfig
    optimizer: str


def entrants_of(
    models: Sequence[str], optimizers: Sequence[str], given: ModelConfig
) -> Mapping[str, Entrant]:
    """Combine each model with each optimizer.

    Args:
        models: names of architectures, without repetition; if empty, all entrants have the model `given`.
        optimizers: names of presets or preset files, without repetition.
        given: settings of the model. Other architectures take over the settings that all architectures have.

    Returns:
        The entrants by name, ordered by model and then by optimizer; the first is the reference. A setting of `given` that
        is invalid for an architecture raises a UsageError.
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
    """Return the settings of the given model that no entrant uses, because its architecture is not in `models`."""
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
