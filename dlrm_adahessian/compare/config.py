"""What a comparison holds equal, and what it varies. Imports no torch."""

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

_SEARCHES_APART = 10_000  # seeds from one search to the next


@settings
class CompareConfig(SharedConfig):
    """Optimizers, or models too, and what all of them are given."""

    optimizers: str = "adagrad,adam,hybrid"
    """Names of presets, or TOML files with one, separated by commas; each is compared with those before it
    (docs/optimizers.md)."""
    models: str | None = None
    """Names of architectures, separated by commas, each trained by each optimizer; default `model` alone. Of the settings of
    `model`, embedding_dim and activation are every architecture's, the others its own."""
    seeds: int = Field(default=3, ge=1, lt=_SEARCHES_APART)
    """Final runs of each optimizer; their intervals cover seeds and rows, with one seed rows only."""
    trials: int = Field(default=0, ge=0)
    """Draws of hyper-parameters of each optimizer, of which `select` chooses; 0 takes the presets as they are."""
    refine: int = Field(default=0, ge=0)
    """Further draws of each optimizer after `trials`, near its best three of them."""
    searches: int = Field(default=1, ge=1)
    """Independent searches of each optimizer, with `trials` and `refine` draws each, among which `seeds` are divided. With
    one, intervals are conditional on its draws; with several, they cover the chance of tuning too."""
    select: Literal["val", "progressive"] = "val"
    """Choose draws by the validation rows, or by every other block of the progressive rows, left out of the report."""
    trial_rows: Annotated[int, Field(ge=1)] | None = None
    """Rows that a draw trains on, the last ones of the training part; default all."""
    sampler: Literal["random", "tpe"] = "random"
    """Draw independently, or learn from earlier draws (tree-structured Parzen estimator)."""
    seed: int = Field(default=0, ge=0, lt=1 << 62)  # those that follow have 63 bits too
    """Of the draws and of their runs; final runs take the seeds after it, each further search that 10,000 after the last."""
    parallel: int = Field(default=1, ge=1)
    """Runs at once, which share the cores; steps are timed alone after them."""
    lease: float = Field(default=60, ge=1)
    """Seconds without a sign of life of a process, after which others with --join take over its run."""
    out: Path = Path("runs/compare")
    """Where runs and the report go. Started again, it repeats no finished run."""

    @model_validator(mode="after")
    def _named(self) -> "CompareConfig":
        names, fewest = [*map(optimizer_name, self.optimizer_names)], 2 if self.models is None else 1
        if len(names) < fewest or len(set(names)) < len(names):
            needed = "two optimizers" if fewest > 1 else "one optimizer"
            raise ValueError(
                f"a comparison needs at least {needed}, each once, got {self.optimizers!r}; "
                "name them like --optimizers adagrad,hybrid"
            )
        return self

    @model_validator(mode="after")
    def _of_models(self) -> "CompareConfig":
        models, known = self.model_names, list(get_args(ModelName))
        if self.models is not None and (len(models) < 2 or len(set(models)) < len(models)):
            raise ValueError(
                f"--models names at least two architectures, each once, got {self.models!r}; name one alone by --model"
            )
        if unknown := [name for name in models if name not in known]:
            raise ValueError(
                f"models are among {', '.join(known)}, got {unknown[0]!r}{nearest(unknown[0], known)}"
            )
        if models and (left_out := settings_left_out(models, self.model)):
            raise ValueError(
                f"--models leaves out {self.model.name}, and settings of it are given: model.{', model.'.join(left_out)}; "
                f"name it like --models {self.model.name},{self.models}, or leave these settings out"
            )
        return self

    @model_validator(mode="after")
    def _budget(self) -> "CompareConfig":
        if self.refine and not self.trials:
            raise ValueError("--refine draws near the best trials, and --trials is 0; give --trials 30 or so")
        if self.searches > 1 and not self.trials:
            raise ValueError("--searches repeats the draws, and --trials is 0; give --trials 30 or so")
        if self.seeds % self.searches:
            raise ValueError(
                f"--seeds are divided evenly among the searches, got {self.seeds} for {self.searches}; "
                f"give --seeds {self.seeds + -self.seeds % self.searches}"
            )
        return self

    @property
    def optimizer_names(self) -> list[str]:
        """The optimizers in order, by their names or files."""
        return _split(self.optimizers)

    @property
    def model_names(self) -> list[str]:
        """The architectures in order; none where all runs have one model."""
        return [] if self.models is None else _split(self.models)

    @property
    def entrants(self) -> Mapping[str, Entrant]:
        """What is compared, by name and in order; a UsageError where an architecture refuses a setting of the model."""
        return entrants_of(self.model_names, self.optimizer_names, self.model)

    @property
    def final_seeds(self) -> range:
        """Seeds of the final runs; none is that of draws, so no draw is rewarded for its luck."""
        return range(self.seed + 1, self.seed + 1 + self.seeds)

    def seeds_of(self, search: int) -> range:
        """The seeds of the final runs with what a search chose, searches counted from 0; more seeds add to each."""
        return self.final_seeds[search :: self.searches]

    def search_seed(self, search: int) -> int:
        """The seed of a search's draws and of their runs."""
        return self.seed + search * _SEARCHES_APART


def trial_config(study: CompareConfig, name: str, drawn: dict[str, Any], *, search: int = 0) -> RunConfig:
    """Compose the run of a draw of a search; other arguments as those of `run_config`."""
    config = run_config(study, name, seed=study.search_seed(search), drawn=drawn)
    return replace(config, data=replace(config.data, train_rows=study.trial_rows or config.data.train_rows))


def run_config(
    study: CompareConfig, name: str, *, seed: int, drawn: dict[str, Any] | None = None
) -> RunConfig:
    """Compose one run of a comparison.

    Args:
        study: the comparison.
        name: of the entrant.
        seed: of the run.
        drawn: hyper-parameters by path below `optim`, such as `dense.lr`, in place of the preset's.

    Returns:
        Its configuration; an optimizer that is no preset's name is refused.
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
    """Return what is the entrant's own in a run's configuration: of its optimizer, and where models differ, of its model."""
    values = asdict(config)
    own = ("optimizer", "model", *OPTIMIZER_SETTINGS) if study.models else OPTIMIZER_SETTINGS
    return {key: values[key] for key in own}


def _split(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]
