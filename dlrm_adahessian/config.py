"""The configuration of a run: composes the parts' own, from defaults, preset, file and flags. Imports no torch.

Later wins: the defaults of the classes, the preset of the optimizer (presets/optimizers/NAME.toml), the file of
`--config`, the flags. Files never inherit from each other.
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
_NVIDIA = Path("/dev/nvidiactl")  # there where a driver is
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
    """Rows, model and step: what optimizers that are compared have in common."""

    dataset: DatasetName = "criteo"
    """A published data set, whose rows are at --data-path, or generated rows; docs/own-data.md says more."""
    schema: Path | None = None
    """TOML file that describes the columns of rows of your own, in place of a data set's name (docs/own-data.md)."""
    data_path: str | None = None
    """Rows: a file, plain or compressed, a folder of files, - for standard input, or a folder of prepared rows, as `prepare`
    prints it; of those, minimum count and bad rows are settled."""
    rows: Annotated[int, Field(ge=70)] | None = None
    """Use the first N rows only; for synthetic data, generate N (default 1,000,000)."""
    bad_rows: BadRows = "strict"
    """Stop at the first bad line, or set bad lines aside in rejects.tsv and count them."""
    batch_size: int = Field(default=256, ge=1)
    """Samples a step, over all ranks."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the training rows."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto is a GPU where there is one."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of the operands of matrix products: tf32 is for GPUs, bf16 for CPUs that multiply it; sums are float32 always."""
    curvature_precision: Literal["fp32", "bf16"] = "bf16"
    """Of the operands of the exact diagonal's own products, on GPUs and CPUs with AMX; sums are float32."""
    data: DataConfig = DataConfig()
    model: ModelConfig = DLRMConfig()


@settings
class RunConfig(SharedConfig):
    """One training run."""

    optimizer: Annotated[str, BeforeValidator(optimizer_name)] = "hybrid"
    """Preset of a dense rule, a row rule and their curvature, or a TOML file with one (docs/optimizers.md)."""
    baseline: Literal["adagrad", "none"] = "adagrad"
    """Train this too, on the same rows, order and initial weights, and compare; with --init-from there is none."""
    curvature: CurvatureName = "exact"
    """Estimator of the Hessian diagonal; gauss_newton is the pass of exact for models whose Hessian it is not."""
    curvature_every: int = Field(default=1, ge=1)
    """Steps from one curvature update to the next, the first step included; rows have the exact diagonal's at each step."""
    curvature_fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the batch that the curvature is computed on; the exact diagonal's on rows is of all samples."""
    curvature_probes: int = Field(default=1, ge=1)
    """Probes of a Hutchinson estimate, or draws of labels of a Gauss-Newton-Bartlett one."""
    exchange_precision: ExchangePrecision = "fp32"
    """Of what travels between ranks for the tables: embeddings and their derivatives; bf16 halves the bytes."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights, order of rows, probes."""
    out: Path | None = None
    """Run directory; default runs/DATASET-OPTIMIZER, numbered."""
    init_from: Path | None = None
    """Go on from this finished run, with its settings: weights, vocabulary, optimizer state (docs/daily.md)."""
    init_checkpoint: str | None = None
    """The checkpoint that --init-from found, which the run notes; another one is refused."""
    init_row_decay: float = Field(default=1.0, ge=0, le=1)
    """Factor on the sums of squares that rows bring from --init-from: below 1, known rows take larger steps again."""
    resume: bool = False
    """Continue from the newest good checkpoint of the run directory, with the settings in its config.json."""
    checkpoint_every: int = Field(default=2000, ge=0)
    """Steps from one checkpoint to the next; 0 only at the end and on Ctrl-C."""
    checkpoint_keep: int = Field(default=2, ge=1)
    """Last checkpoints to keep; beside them run/best holds the best one where validation happens more than once."""
    checkpoint_in_background: bool = True
    """Copy what is saved and write it while training goes on; false needs no memory for the copy, and stops the steps."""
    eval_every: int = Field(default=0, ge=0)
    """Steps from one evaluation on validation rows to the next; 0 at the end of each epoch."""
    patience: int = Field(default=0, ge=0)
    """Stop after this many evaluations without a better log loss; 0 never."""
    log_every: int = Field(default=100, ge=1)
    """Steps from one line of metrics.jsonl to the next, after the first 20."""
    profile: int = Field(default=0, ge=0)
    """Trace this many steps after a short warm-up, to see where their time goes (docs/logging.md)."""
    max_skipped: int = Field(default=3, ge=1)
    """Steps in a row with a non-finite loss or derivative after which the run goes back to its newest checkpoint, once to
    each; then it ends."""
    timeout: float = Field(default=600, gt=0, le=31_536_000)
    """Seconds after which a rank that does not answer the others is given up; a year at most."""
    optim: OptimConfig = OptimConfig()
    distributed: DistributedConfig = DistributedConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.optim.uses_curvature and self.curvature == "none":
            raise ValueError(
                f"{self.optim.dense.name}/{self.optim.rows.name} reads the curvature, and curvature is none; "
                f"choose one of {', '.join(_ESTIMATORS)}, or an optimizer without curvature"
            )
        if not self.optim.uses_curvature and self.curvature != "none":
            raise ValueError(
                f"{self.optim.dense.name}/{self.optim.rows.name} reads no curvature, and curvature is "
                f"{self.curvature}; choose none, or an optimizer with curvature"
            )
        if self.optim.columns.power and self.curvature not in ("none", *ONE_PASS):
            raise ValueError(
                f"optim.columns turns the gradient of the rows, and the estimate {self.curvature} cannot turn with it; "
                "use curvature exact or gauss_newton, or optim.columns.power 0"
            )
        if self.init_from is None and self.init_checkpoint is not None:
            raise ValueError(
                "init_checkpoint is of the run that --init-from names; name it, or leave init_checkpoint out"
            )
        if self.init_from is not None and self.baseline != "none":
            raise ValueError(
                f"a baseline starts from random weights, and a run with --init-from does not, got baseline {self.baseline}; "
                "use --baseline none"
            )
        if self.init_row_decay != 1 and not self.optim.rows.build().sums:
            raise ValueError(
                f"init_row_decay is of sums over all steps, and {self.optim.rows.name} keeps none; leave it out"
            )
        kinds = {"weights": self.model.parts.weights, "pooled embeddings": self.model.parts.pooled}
        curved = [part for part, kind in kinds.items() if kind != "hessian"]
        if self.curvature == "exact" and curved:
            raise ValueError(
                f"curvature exact is the diagonal of the Hessian, and the logit of {self.model.name} with these settings is "
                f"curved in its {' and '.join(curved)} (docs/models.md); use curvature gauss_newton, hutchinson or "
                "gauss_newton_bartlett, or change the model"
            )
        return self

    def require_memory(self, available: int, num_dense: int, num_features: int) -> None:
        """Refuse a model or a batch that cannot be, however small the tables are.

        Args:
            available: bytes of this machine; with a GPU nothing is refused here, as that may have more.
            num_dense: dense columns of the rows, or the fewest that they can have.
            num_features: categorical ones, likewise.

        Raises:
            UsageError: layers and batch alone take more.
        """
        needed = self.model.least_bytes(self.batch_size, num_dense, num_features)
        if needed > available and (self.device == "cpu" or not _NVIDIA.exists()):
            raise UsageError(
                f"the layers of {self.model.name} and a batch of {self.batch_size:,} samples take {needed / 1e9:,.0f} GB of "
                f"memory at least, and this machine has {available / 1e9:,.0f} GB; lower --batch-size or the widths of "
                "the model"
            )

    @property
    def default_stem(self) -> str:
        """Name of the run directory when none is given."""
        return run_stem(self.dataset, self.schema, self.optimizer)

    def fingerprint(self, rows: str) -> str:
        """Identify what determines the results.

        Args:
            rows: fingerprint of the prepared rows.

        Returns:
            16 hexadecimal digits; equal for runs whose results are equal, wherever they are written.
        """
        settings = {k: v for k, v in asdict(self).items() if k not in _NOT_RESULTS}
        if self.curvature not in ONE_PASS:
            del settings["curvature_precision"]
        if self.exchange_precision == "fp32":  # a setting that rounds nothing is none
            del settings["exchange_precision"]
        if self.init_from is None:
            del settings["init_checkpoint"], settings["init_row_decay"]
        for name in ("dropout", "initial_rows", "l2_weights", "l2_rows"):  # at 0 or None they are none either
            if not settings["model"][name]:
                del settings["model"][name]
        if self.model.name == "dlrm":  # the only architecture once, without a name
            del settings["model"]["name"]
        settings["data"] = {"order": self.data.order, "train_rows": self.data.train_rows}
        return fingerprint({"rows": rows, "settings": settings})

    def checkpoint_fingerprints(self, rows: str) -> tuple[str, ...]:
        """Identify what determines the state after a step, however many follow.

        Args:
            rows: fingerprint of the prepared rows.

        Returns:
            What checkpoints are saved by, first; those saved by any of them are this run's. Where no learning rate depends
            on the number of all steps, the epochs count as 1. Runs of several epochs were saved by `fingerprint` once.
        """
        own = self.fingerprint(rows)
        if self.optim.schedule.shares:
            return (own,)
        return replace(self, epochs=1).fingerprint(rows), own

    @property
    def identifying(self) -> dict[str, Any]:
        """The settings that tell one run from another: those of its results, and those of the preparation of its rows."""
        values = {k: v for k, v in asdict(self).items() if k == "bad_rows" or k not in _NOT_RESULTS}
        values["data"] = {k: v for k, v in values["data"].items() if k not in MOVES_NOTHING}
        return values

    @property
    def of_all_ranks(self) -> dict[str, Any]:
        """The settings that all ranks of a run have alike: all but paths, of which those of the first rank hold."""
        values = {
            k: v for k, v in asdict(self).items() if k not in ("out", "data_path", "schema", "init_from")
        }
        del values["data"]["cache_dir"]
        return values


def run_stem(dataset: str, schema: Path | None, optimizer: str) -> str:
    """Return the name that a run directory begins with when none is given: of the rows, and of the optimizer."""
    return f"{schema.stem if schema else dataset}-{optimizer}"


def asdict(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as JSON values."""
    return pydantic.TypeAdapter(RunConfig).dump_python(config, mode="json")


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Validate the configuration of a run; see `validated`."""
    return validated(RunConfig, values)


def load(path: Path | None, optimizer: str | None, model: str | None = None) -> RunConfig:
    """Compose the configuration before the flags, of the file of `--config`, `--optimizer` and `--model`, if any."""
    return composed(read_toml(path) if path else {}, optimizer, model)


def composed(values: Mapping[str, Any], optimizer: str | None = None, model: str | None = None) -> RunConfig:
    """Compose defaults, the preset of the optimizer, and settings.

    Args:
        values: nested tables as in a TOML file; they win over the preset.
        optimizer: name of the preset; None is the one that `values` name, or hybrid.
        model: name of the architecture; None is the one that `values` name, or dlrm.

    Returns:
        The configuration.

    Raises:
        UsageError: a setting breaks a rule.
    """
    name = optimizer or values.get("optimizer") or "hybrid"
    if not isinstance(name, str):
        known = ", ".join(preset_names("optimizers"))
        raise UsageError(f"optimizer must be a name in quotes, got {name!r}; one of {known}")
    if model is not None:
        values = of_model(values, model)
    if values.get("init_from") is not None:
        values = {"baseline": "none", **values}
    shared = validated(SharedConfig, {"model": values.get("model", {})})
    return from_dict({**merged(preset_for(name, shared.model), values), "optimizer": name})


def preset_for(optimizer: str, model: ModelConfig) -> dict[str, Any]:
    """Return the preset of an optimizer for an architecture.

    Where the architecture is curved by design, `exact` of a preset is `gauss_newton`: the same pass, by its right name.
    The rows' learning rate is divided by what the architecture asks for.

    Args:
        optimizer: name of the preset, or a file with one.
        model: of which the architecture counts, not its settings.

    Returns:
        Its tables.
    """
    preset, parts = optimizer_preset(optimizer), type(model)().parts
    rows = preset.get("optim", {}).get("rows", {})
    if preset.get("curvature") == "exact" and "gauss_newton" in (parts.weights, parts.pooled):
        preset["curvature"] = "gauss_newton"
    if "lr" in rows:
        rows["lr"] /= model.rows_lr_divisor
    return preset


def of_model(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return nested tables with the name of the architecture; other settings of the model stay, and must be of it too."""
    below = values.get("model", {})
    return {**values, "model": {**below, "name": name} if isinstance(below, Mapping) else below}


def baseline_of(config: RunConfig) -> RunConfig:
    """Return the run that `config` is compared with: the baseline's preset, schedule included; all else alike."""
    values = asdict(config)
    for key in OPTIMIZER_SETTINGS:
        del values[key]
    values = merged(values, preset_for(config.baseline, config.model))
    return from_dict({**values, "optimizer": config.baseline, "baseline": "none", "out": None, "profile": 0})
