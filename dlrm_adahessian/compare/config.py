"""Define the settings of a comparison, and compose its runs. Imports no torch."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, model_validator

from dlrm_adahessian.compare.entrants import Entrant, entrants_of, settings_left_out
from dlrm_adahessian.config import (
    RunConfig,
    SharedConfig,
    asdict,
    from_dict,
    preset_for,
)
from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.model.registry import ModelName
from dlrm_adahessian.presets import OPTIMIZER_SETTINGS, optimizer_name
from dlrm_adahessian.runtime.settings import merged, nearest, settings

_SHARED = [field.name for field in fields(SharedConfig)]

_SEARCHES_APART = 10_000  # distance between the seeds of consecutive searches


@settings
class CompareConfig(SharedConfig):
    """Settings of a comparison of optimizers, and possibly models, with the settings that all of them share."""

    optimizers: str = "adagrad,adam,hybrid"
    """Optimizer presets, or TOML files like them, separated by commas; the first is the reference (docs/optimizers.md)."""
    models: str | None = None
    """Architectures to compare, separated by commas, each with each optimizer (default: only --model). Shared
    settings such as --model.embedding-dim apply to all."""
    seeds: int = Field(default=3, ge=1, lt=_SEARCHES_APART)
    """Final runs per entrant. With one seed, intervals do not cover seed-to-seed variation."""
    trials: int = Field(default=0, ge=0)
    """Hyper-parameter trials per entrant; 0 uses the presets unchanged."""
    refine: int = Field(default=0, ge=0)
    """Additional trials per entrant, near its best three."""
    searches: int = Field(default=1, ge=1)
    """Independent searches per entrant, each with all trials and a share of the seeds. With several, intervals also cover
    tuning."""
    select: Literal["val", "progressive"] = "val"
    """Selection set: validation samples, or every other batch of progressive samples, which the report then omits."""
    trial_rows: Annotated[int, Field(ge=1)] | None = None
    """Train trials on only the last N training samples (default: all)."""
    sampler: Literal["random", "tpe"] = "random"
    """random: independent trials; tpe: learn from earlier trials (tree-structured Parzen estimator)."""
    seed: int = Field(default=0, ge=0, lt=1 << 62)  # so that the seeds derived from it also fit in 63 bits
    """Random seed of the trials; final runs use the seeds after it."""
    parallel: int = Field(default=1, ge=1)
    """Runs to train at once on shared cores; step times are then measured separately."""
    lease: float = Field(default=60, ge=1)
    """Seconds after which other processes take over the run of an unresponsive one."""
    out: Path = Path("runs/compare")
    """Folder of runs and report; the same command again continues there."""

    @model_validator(mode="after")
    def _named(self) -> "CompareConfig":
        names, fewest = [*map(optimizer_name, self.optimizer_names)], 2 if self.models is None else 1
        if len(names) < fewest or len(set(names)) < len(names):
            needed = "two optimizers" if fewest > 1 else "one optimizer"
            raise ValueError(
                f"A comparison requires at least {needed} without repetition, got {self.optimizers!r}. "
                "Pass them like --optimizers adagrad,hybrid."
            )
        return self

    @model_validator(mode="after")
    def _of_models(self) -> "CompareConfig":
        models, known = self.model_names, list(get_args(ModelName))
        if self.models is not None and (len(models) < 2 or len(set(models)) < len(models)):
            raise ValueError(
                f"--models requires at least two architectures without repetition, got {self.models!r}. "
                "To use one, pass it with --model."
            )
        if unknown := [name for name in models if name not in known]:
            raise ValueError(
                f"--models accepts {', '.join(known)}, got {unknown[0]!r}{nearest(unknown[0], known)}"
            )
        if models and (left_out := settings_left_out(models, self.model)):
            raise ValueError(
                f"--models does not include {self.model.name}, but some of its settings are given: "
                f"model.{', model.'.join(left_out)}. Pass --models {self.model.name},{self.models}, or leave them out."
            )
        return self

    @model_validator(mode="after")
    def _budget(self) -> "CompareConfig":
        if self.refine and not self.trials:
            raise ValueError(
                "--refine searches near the best trials, but --trials is 0. Pass --trials 30, for example."
            )
        if self.searches > 1 and not self.trials:
            raise ValueError(
                "--searches repeats the trials, but --trials is 0. Pass --trials 30, for example."
            )
        if self.seeds % self.searches:
            raise ValueError(
                f"--seeds must be a multiple of --searches, got {self.seeds} seeds and {self.searches} searches. "
                f"Pass --seeds {self.seeds + -self.seeds % self.searches}."
            )
        return self

    @property
    def optimizer_names(self) -> list[str]:
        """Names or preset files of the optimizers, in order."""
        return _split(self.optimizers)

    @property
    def model_names(self) -> list[str]:
        """Names of the architectures, in order; empty without --models."""
        return [] if self.models is None else _split(self.models)

    @property
    def entrants(self) -> Mapping[str, Entrant]:
        """The entrants by name, in order. Raises a UsageError if a setting of the model is invalid for an architecture."""
        return entrants_of(self.model_names, self.optimizer_names, self.model)

    @property
    def final_seeds(self) -> range:
        """Seeds of the final runs. They differ from the trials' seed, so the luck of a selected trial does not count."""
        return range(self.seed + 1, self.seed + 1 + self.seeds)

    def seeds_of(self, search: int) -> range:
        """Seeds of the final runs of a search, counted from 0. With a larger `seeds`, each search keeps its seeds."""
        return self.final_seeds[search :: self.searches]

    def search_seed(self, search: int) -> int:
        """Seed of the trials of a search, both of their hyper-parameters and of their runs."""
        return self.seed + search * _SEARCHES_APART


def trial_config(study: CompareConfig, name: str, drawn: dict[str, Any], *, search: int = 0) -> RunConfig:
    """Compose the run of a trial of a search. The other arguments are those of `run_config`."""
    config = run_config(study, name, seed=study.search_seed(search), drawn=drawn)
    return replace(config, data=replace(config.data, train_rows=study.trial_rows or config.data.train_rows))


def run_config(
    study: CompareConfig, name: str, *, seed: int, drawn: dict[str, Any] | None = None
) -> RunConfig:
    """Compose one run of a comparison.

    Args:
        study: settings of the comparison.
        name: name of the entrant.
        seed: seed of the run.
        drawn: hyper-parameters that replace those of the preset, by path below `optim`, such as `dense.lr`.

    Returns:
        The configuration. An unknown preset raises a UsageError.
    """
    entrant = study.entrants[name]
    everything = TypeAdapter(CompareConfig).dump_python(study, mode="json")
    everything["model"] = TypeAdapter(ModelConfig).dump_python(entrant.model, mode="json")
    values = merged({key: everything[key] for key in _SHARED}, preset_for(entrant.optimizer, entrant.model))
    for path, value in (drawn or {}).items():
        part, setting = path.split(".")
        values = merged(values, {"optim": {part: {setting: value}}})
    return from_dict({**values, "optimizer": entrant.optimizer, "seed": seed, "baseline": "none"})


def settings_of(study: CompareConfig, config: RunConfig) -> dict[str, Any]:
    """Return the settings of a run that belong to its entrant: those of the optimizer and, if models differ, the model."""
    values = asdict(config)
    own = ("optimizer", "model", *OPTIMIZER_SETTINGS) if study.models else OPTIMIZER_SETTINGS
    return {key: values[key] for key in own}


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
