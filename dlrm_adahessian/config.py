"""Compose the configuration of a run from defaults, preset, file, and flags. Imports no torch.

Later sources override earlier ones: class defaults, the optimizer preset (presets/optimizers/NAME.toml), the file of
`--config`, and flags. Files never inherit from each other.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import BeforeValidator, Field, model_validator

from dlrm_adahessian.curvature.registry import ONE_PASS, CurvatureName
from dlrm_adahessian.data.config import MOVES_NOTHING, BadRows, DataConfig, DatasetName
from dlrm_adahessian.embeddings.config import DistributedConfig, ExchangePrecision
from dlrm_adahessian.errors import UsageError
from dlrm_adahessian.model.config import DLRMConfig, ModelConfig
from dlrm_adahessian.optim.config import OptimConfig
from dlrm_adahessian.presets import OPTIMIZER_SETTINGS, optimizer_name, optimizer_preset, preset_names
from dlrm_adahessian.runs.sealed import fingerprint
from dlrm_adahessian.runtime.settings import merged, read_toml, settings, validated

_ESTIMATORS = [name for name in get_args(CurvatureName) if name != "none"]
_NVIDIA = Path("/dev/nvidiactl")  # exists if an NVIDIA driver is loaded
_NOT_RESULTS = (
    "out",
    "resume",
    "init_from",
    "baseline",
    "data_path",
    "schema",
    "checkpoint_every",
    "checkpoint_keep",
    "checkpoint_in_background",
    "log_every",
    "profile",
    "bad_rows",
    "device",
    "timeout",
    "distributed",
)


@settings
class SharedConfig:
    """Settings of data, model, and step that compared optimizers share."""

    dataset: DatasetName = "criteo"
    """Published data set (read from --data-path) or synthetic data (docs/own-data.md)."""
    schema: Path | None = None
    """TOML file describing the columns of your own data; replaces --dataset (docs/own-data.md)."""
    data_path: str | None = None
    """Data file (plain or compressed), folder of files, - for standard input, or a folder from `prepare`."""
    rows: Annotated[int, Field(ge=70)] | None = None
    """Use only the first N samples; for synthetic data, generate N (default: 1,000,000)."""
    bad_rows: BadRows = "strict"
    """strict: stop at the first bad line; quarantine: write bad lines to rejects.tsv."""
    batch_size: int = Field(default=256, ge=1)
    """Global batch size (samples per step, all ranks)."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the training samples."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device; auto uses a GPU if there is one."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Matrix product inputs: tf32 (GPU) or bf16 (CPU with AMX); sums stay float32."""
    curvature_precision: Literal["fp32", "bf16"] = "bf16"
    """Inputs of the exact diagonal's products (GPU, CPU with AMX); sums stay float32."""
    data: DataConfig = DataConfig()
    model: ModelConfig = DLRMConfig()


@settings
class RunConfig(SharedConfig):
    """Settings of one training run."""

    optimizer: Annotated[str, BeforeValidator(optimizer_name)] = "hybrid"
    """Optimizer preset, or a TOML file like one (docs/optimizers.md)."""
    baseline: Literal["adagrad", "none"] = "adagrad"
    """Baseline trained on identical data and initial weights, then compared; none with --init-from."""
    curvature: CurvatureName = "exact"
    """Curvature estimator; gauss_newton is for models where exact is not the Hessian."""
    curvature_every: int = Field(default=1, ge=1)
    """Update dense curvature every N steps; with exact, embedding rows use every step."""
    curvature_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the batch used for dense curvature; with exact, embedding rows use all."""
    curvature_probes: int = Field(default=1, ge=1)
    """Hutchinson probes, or label draws for gauss_newton_bartlett, per step."""
    exchange_precision: ExchangePrecision = "fp32"
    """Type of embeddings and derivatives sent between ranks; bf16 halves the traffic."""
    seed: int = Field(default=0, ge=0)
    """Random seed for initial weights, sample order, and probes."""
    out: Path | None = None
    """Run directory; default: runs/DATASET-OPTIMIZER, numbered."""
    init_from: Path | None = None
    """Finished run to warm-start from: settings, weights, vocabulary, optimizer state (docs/daily.md)."""
    init_checkpoint: str | None = None
    """Checkpoint of --init-from, recorded by the run; other checkpoints are rejected."""
    init_row_decay: float = Field(default=1.0, ge=0, le=1)
    """Factor on row accumulators from --init-from; below 1, known rows take larger steps."""
    resume: bool = False
    """Continue from the newest valid checkpoint, with the settings in the run's config.json."""
    checkpoint_every: int = Field(default=2000, ge=0)
    """Checkpoint every N steps; 0: only at the end and on Ctrl-C."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """Recent checkpoints to keep; best/ also keeps the best one if validation repeats."""
    checkpoint_in_background: bool = True
    """Write checkpoints while training continues; false saves memory but pauses training."""
    eval_every: int = Field(default=0, ge=0)
    """Evaluate on validation samples every N steps; 0: after each epoch."""
    patience: int = Field(default=0, ge=0)
    """Stop after N evaluations without a better log loss; 0: never."""
    log_every: int = Field(default=100, ge=1)
    """Write metrics.jsonl every N steps, after the first 20."""
    profile: int = Field(default=0, ge=0)
    """Profile N steps after a short warm-up (docs/logging.md)."""
    max_skipped: int = Field(default=3, ge=1)
    """Consecutive non-finite steps after which to return to a checkpoint (once to each)."""
    timeout: float = Field(default=600, gt=0, le=31_536_000)
    """Seconds to wait for an unresponsive rank, at most one year."""
    optim: OptimConfig = OptimConfig()
    distributed: DistributedConfig = DistributedConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.optim.uses_curvature and self.curvature == "none":
            raise ValueError(
                f"{self.optim.dense.name}/{self.optim.rows.name} needs curvature, but curvature is none. "
                f"Choose one of {', '.join(_ESTIMATORS)}, or an optimizer without curvature."
            )
        if not self.optim.uses_curvature and self.curvature != "none":
            raise ValueError(
                f"{self.optim.dense.name}/{self.optim.rows.name} uses no curvature, but curvature is "
                f"{self.curvature}. Choose none, or an optimizer with curvature."
            )
        if self.optim.columns.power and self.curvature not in ("none", *ONE_PASS):
            raise ValueError(
                f"optim.columns rotates the gradient of embedding rows, but the estimator {self.curvature} does not support "
                "that. Use curvature exact or gauss_newton, or set optim.columns.power to 0."
            )
        if self.init_from is None and self.init_checkpoint is not None:
            raise ValueError(
                "init_checkpoint requires --init-from. Set --init-from, or remove init_checkpoint."
            )
        if self.init_from is not None and self.baseline != "none":
            raise ValueError(
                f"Baseline {self.baseline} starts from random weights, but a run with --init-from does not. "
                "Use --baseline none."
            )
        if self.init_row_decay != 1 and not self.optim.rows.build().sums:
            raise ValueError(
                f"init_row_decay applies to sums over all steps, but {self.optim.rows.name} keeps none. Remove it."
            )
        kinds = {"weights": self.model.parts.weights, "pooled embeddings": self.model.parts.pooled}
        curved = [part for part, kind in kinds.items() if kind != "hessian"]
        if self.curvature == "exact" and curved:
            raise ValueError(
                f"Curvature exact is not the diagonal of the Hessian of {self.model.name} with these settings, because the "
                f"logit is not piecewise linear in its {' and '.join(curved)} (docs/models.md). Use curvature gauss_newton, "
                "hutchinson, or gauss_newton_bartlett, or change the model."
            )
        return self

    def require_memory(self, available: int, num_dense: int, num_features: int) -> None:
        """Check that the dense part and a batch fit into memory, whatever the size of the tables.

        Args:
            available: memory of this machine in bytes. With a GPU there is no check, because it may have more.
            num_dense: number of numeric features, or a lower bound.
            num_features: number of categorical features, or a lower bound.

        Raises:
            UsageError: layers and batch alone need more memory.
        """
        needed = self.model.least_bytes(self.batch_size, num_dense, num_features)
        if needed > available and (self.device == "cpu" or not _NVIDIA.exists()):
            raise UsageError(
                f"Not enough memory: the layers of {self.model.name} and a batch of {self.batch_size:,} samples need at "
                f"least {needed / 1e9:,.0f} GB, but this machine has {available / 1e9:,.0f} GB. Lower --batch-size or the "
                "widths of the model."
            )

    @property
    def default_stem(self) -> str:
        """Default name of the run directory."""
        return run_stem(self.dataset, self.schema, self.optimizer)

    def fingerprint(self, rows: str) -> str:
        """Return a fingerprint of everything that determines the results.

        Args:
            rows: fingerprint of the prepared data.

        Returns:
            16 hexadecimal digits; equal for runs with equal results, whatever their output folder.
        """
        settings = {k: v for k, v in asdict(self).items() if k not in _NOT_RESULTS}
        if self.curvature not in ONE_PASS:
            del settings["curvature_precision"]
        if self.exchange_precision == "fp32":  # fp32 does not affect results, so it is omitted
            del settings["exchange_precision"]
        if self.init_from is None:
            del settings["init_checkpoint"], settings["init_row_decay"]
        for name in (
            "dropout",
            "initial_rows",
            "l2_weights",
            "l2_rows",
        ):  # omitted if 0 or None, which have no effect
            if not settings["model"][name]:
                del settings["model"][name]
        if self.model.name == "dlrm":  # omitted, because DLRM was once the only architecture
            del settings["model"]["name"]
        settings["data"] = {"order": self.data.order, "train_rows": self.data.train_rows}
        return fingerprint({"rows": rows, "settings": settings})

    def checkpoint_fingerprints(self, rows: str) -> tuple[str, ...]:
        """Return fingerprints of everything that determines the state after a step, whatever steps follow.

        Args:
            rows: fingerprint of the prepared data.

        Returns:
            The fingerprint of new checkpoints, then others that are accepted. If no learning rate depends on the total
            number of steps, epochs count as 1. Older versions saved runs of several epochs under `fingerprint`.
        """
        own = self.fingerprint(rows)
        if self.optim.schedule.shares:
            return (own,)
        return replace(self, epochs=1).fingerprint(rows), own

    @property
    def identifying(self) -> dict[str, Any]:
        """Settings that identify a run: those that determine its results, and those of data preparation."""
        values = {k: v for k, v in asdict(self).items() if k == "bad_rows" or k not in _NOT_RESULTS}
        values["data"] = {k: v for k, v in values["data"].items() if k not in MOVES_NOTHING}
        return values

    @property
    def of_all_ranks(self) -> dict[str, Any]:
        """Settings that must be equal on all ranks: all except paths, for which those of the first rank apply."""
        values = {
            k: v for k, v in asdict(self).items() if k not in ("out", "data_path", "schema", "init_from")
        }
        del values["data"]["cache_dir"]
        return values


def run_stem(dataset: str, schema: Path | None, optimizer: str) -> str:
    """Return the start of the default name of a run directory, from the data set and the optimizer."""
    return f"{schema.stem if schema else dataset}-{optimizer}"


def asdict(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as JSON values."""
    return pydantic.TypeAdapter(RunConfig).dump_python(config, mode="json")


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Validate the configuration of a run; see `validated`."""
    return validated(RunConfig, values)


def load(path: Path | None, optimizer: str | None, model: str | None = None) -> RunConfig:
    """Compose the configuration before flags, from the file of `--config`, `--optimizer`, and `--model`, if given."""
    return composed(read_toml(path) if path else {}, optimizer, model)


def composed(values: Mapping[str, Any], optimizer: str | None = None, model: str | None = None) -> RunConfig:
    """Compose defaults, the preset of the optimizer, and settings.

    Args:
        values: nested dicts as in a TOML file; they override the preset.
        optimizer: name of the preset; None uses the one in `values`, or hybrid.
        model: name of the architecture; None uses the one in `values`, or dlrm.

    Returns:
        The configuration.

    Raises:
        UsageError: a setting is invalid.
    """
    name = optimizer or values.get("optimizer") or "hybrid"
    if not isinstance(name, str):
        known = ", ".join(preset_names("optimizers"))
        raise UsageError(f"The optimizer must be a name in quotes, got {name!r}. Choose one of {known}.")
    if model is not None:
        values = of_model(values, model)
    if values.get("init_from") is not None:
        values = {"baseline": "none", **values}
    shared = validated(SharedConfig, {"model": values.get("model", {})})
    return from_dict({**merged(preset_for(name, shared.model), values), "optimizer": name})


def preset_for(optimizer: str, model: ModelConfig) -> dict[str, Any]:
    """Return the preset of an optimizer for an architecture.

    For an architecture whose logit is nonlinear by design, `exact` in a preset becomes `gauss_newton`, which is the same
    computation under its correct name. The learning rate of embedding rows is divided by the architecture's
    `rows_lr_divisor`.

    Args:
        optimizer: name of the preset, or a file with one.
        model: settings whose architecture matters; other settings are ignored.

    Returns:
        The preset as nested dicts.
    """
    preset, parts = optimizer_preset(optimizer), type(model)().parts
    rows = preset.get("optim", {}).get("rows", {})
    if preset.get("curvature") == "exact" and "gauss_newton" in (parts.weights, parts.pooled):
        preset["curvature"] = "gauss_newton"
    if "lr" in rows:
        rows["lr"] /= model.rows_lr_divisor
    return preset


def of_model(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return `values` with the architecture set to `name`. Other model settings remain, and must be valid for it."""
    below = values.get("model", {})
    return {**values, "model": {**below, "name": name} if isinstance(below, Mapping) else below}


def baseline_of(config: RunConfig) -> RunConfig:
    """Return the baseline run of `config`, with the baseline's preset and schedule. All other settings are equal."""
    values = asdict(config)
    for key in OPTIMIZER_SETTINGS:
        del values[key]
    values = merged(values, preset_for(config.baseline, config.model))
    return from_dict({**values, "optimizer": config.baseline, "baseline": "none", "out": None, "profile": 0})
