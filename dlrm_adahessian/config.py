"""The configuration of a run: composes the parts' own, from defaults, preset, file and flags. Imports no torch.

Later wins: the defaults of the classes, the preset of the optimizer (configs/optimizers/NAME.toml), the file of
`--config`, the flags. Files never inherit from each other.
"""

import dataclasses
import difflib
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from dlrm_adahessian.curvature.config import CurvatureName
from dlrm_adahessian.data.config import DataConfig, SyntheticConfig
from dlrm_adahessian.data.schema import TOKEN_NAMES
from dlrm_adahessian.embeddings.config import DistributedConfig, ExchangePrecision
from dlrm_adahessian.errors import NoInputError, UsageError
from dlrm_adahessian.model.config import ModelConfig
from dlrm_adahessian.optim.config import DenseConfig, OptimConfig, RowConfig, ScheduleConfig
from dlrm_adahessian.runs.sealed import fingerprint

PRESETS = Path(__file__).resolve().parent.parent / "configs" / "optimizers"
T = TypeVar("T")
_ESTIMATORS = [name for name in get_args(CurvatureName) if name != "none"]
_MAX_TOML = 1 << 20  # bytes
OPTIMIZER_SETTINGS = ("curvature", "curvature_every", "curvature_fraction", "curvature_probes", "optim")
"""Settings of a run that are its optimizer's own."""
_NOT_RESULTS = (
    "out",
    "resume",
    "baseline",
    "data_path",
    "checkpoint_every",
    "checkpoint_keep",
    "checkpoint_in_background",
    "log_every",
    "bad_rows",
    "device",
    "timeout",
    "distributed",
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SharedConfig:
    """Rows, model and step: what optimizers that are compared have in common."""

    dataset: Literal["criteo", "synthetic"] = "criteo"
    """Real rows from --data-path, or generated ones."""
    data_path: str | None = None
    """Criteo rows: train.txt under any name, a .gz of it, the dac.tar.gz archive, a folder of such files, - for standard
    input, or a folder of prepared rows, as `prepare` prints it; of those, minimum count and bad rows are settled."""
    rows: Annotated[int, Field(ge=70)] | None = None
    """Use the first N rows only; for synthetic data, generate N (default 1,000,000)."""
    bad_rows: Literal["strict", "quarantine"] = "strict"
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
    model: ModelConfig = ModelConfig()


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RunConfig(SharedConfig):
    """One training run."""

    optimizer: str = "hybrid"
    """A (dense, rows, curvature) triple: the name of a file in configs/optimizers."""
    baseline: Literal["adagrad", "none"] = "adagrad"
    """Train this too, on the same rows, order and initial weights, and compare."""
    curvature: CurvatureName = "exact"
    """Estimator of the Hessian diagonal."""
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
    resume: bool = False
    """Continue from the newest good checkpoint of the run directory."""
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
    max_skipped: int = Field(default=3, ge=1)
    """Steps in a row with a non-finite loss or derivative after which the run goes back to its newest checkpoint, once to
    each; then it ends."""
    timeout: float = Field(default=600, gt=0)
    """Seconds after which a rank that does not answer the others is given up."""
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
        if self.curvature == "exact" and (self.model.activation != "relu" or self.model.self_interaction):
            raise ValueError(
                "the exact Hessian diagonal needs activation relu and no self-interaction, got "
                f"{self.model.activation} and self_interaction={self.model.self_interaction}; "
                "use curvature hutchinson or gauss_newton_bartlett, or change the model"
            )
        return self

    @model_validator(mode="after")
    def _known_tables(self) -> "RunConfig":
        if unknown := [name for name in self.distributed.tables if name not in TOKEN_NAMES]:
            raise ValueError(
                f"distributed.tables names tables, {TOKEN_NAMES[0]} to {TOKEN_NAMES[-1]}, got {', '.join(unknown)}; "
                "name one of these"
            )
        return self

    def curvature_samples(self, step: int, samples: int) -> int:
        """Return how many of the samples of a batch the curvature is computed on; 0 on a step without curvature.

        The exact diagonal on rows costs nothing and is not meant: without a reader on the dense part it is never due.

        Args:
            step: number of the step, from 0.
            samples: of the batch.
        """
        read = self.curvature != "none" and (self.curvature != "exact" or self.optim.dense.uses_curvature)
        due = read and step % self.curvature_every == 0
        return math.ceil(self.curvature_fraction * samples) if due else 0

    @property
    def default_stem(self) -> str:
        """Name of the run directory when none is given."""
        return f"{self.dataset}-{self.optimizer}"

    def fingerprint(self, rows: str) -> str:
        """Identify what determines the results.

        Args:
            rows: fingerprint of the prepared rows.

        Returns:
            16 hexadecimal digits; equal for runs whose results are equal, wherever they are written.
        """
        settings = {k: v for k, v in asdict(self).items() if k not in _NOT_RESULTS}
        if self.curvature != "exact":
            del settings["curvature_precision"]
        if self.exchange_precision == "fp32":  # a setting that rounds nothing is none
            del settings["exchange_precision"]
        settings["data"] = {"order": self.data.order, "train_rows": self.data.train_rows}
        return fingerprint({"rows": rows, "settings": settings})


_PARTS = (RunConfig, DataConfig, SyntheticConfig, ModelConfig, OptimConfig, ScheduleConfig, DistributedConfig)
_SETTINGS = sorted(
    {
        field.name
        for part in (*_PARTS, *get_args(DenseConfig), *get_args(RowConfig))
        for field in dataclasses.fields(part)
    }
)


def asdict(config: RunConfig) -> dict[str, Any]:
    """Return the configuration as JSON values."""
    return pydantic.TypeAdapter(RunConfig).dump_python(config, mode="json")


def from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Validate the configuration of a run; see `validated`."""
    return validated(RunConfig, values)


def validated(kind: type[T], values: Mapping[str, Any]) -> T:
    """Validate a configuration.

    Args:
        kind: its class.
        values: nested tables; absent keys take their defaults.

    Returns:
        The configuration.

    Raises:
        UsageError: a key is unknown, or a value is of the wrong type or out of range.
    """
    try:
        return pydantic.TypeAdapter(kind).validate_python(dict(values))
    except pydantic.ValidationError as error:
        raise UsageError("\n".join(_explain(problem) for problem in error.errors())) from error


def load(path: Path | None, optimizer: str | None) -> RunConfig:
    """Compose defaults, preset and file.

    Args:
        path: the file of `--config`, or None.
        optimizer: the name given by `--optimizer`; None leaves it to the file.

    Returns:
        The configuration before the flags.

    Raises:
        UsageError: the file or a value in it breaks a rule.
    """
    values = read_toml(path) if path else {}
    name = optimizer or values.get("optimizer") or "hybrid"
    if not isinstance(name, str):
        raise UsageError(f"optimizer must be a name in quotes, got {name!r}; see {PRESETS}")
    return from_dict({**merged(preset(name), values), "optimizer": name})


def preset(name: str) -> dict[str, Any]:
    """Read the preset of an optimizer.

    Args:
        name: the stem of a file in configs/optimizers.

    Returns:
        Its tables.

    Raises:
        UsageError: there is none of that name.
    """
    known = sorted(path.stem for path in PRESETS.glob("*.toml"))
    if name not in known:
        raise UsageError(f"optimizer must be one of {', '.join(known)}, got {name!r}{_nearest(name, known)}")
    return read_toml(PRESETS / f"{name}.toml")


def baseline_of(config: RunConfig) -> RunConfig:
    """Return the run that `config` is compared with: the baseline's preset, schedule included; all else alike."""
    values = asdict(config)
    for key in OPTIMIZER_SETTINGS:
        del values[key]
    values = merged(values, preset(config.baseline))
    return from_dict({**values, "optimizer": config.baseline, "baseline": "none", "out": None})


def read_toml(path: Path) -> dict[str, Any]:
    """Read a configuration file; one that is absent, too large or no TOML is refused."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOML + 1)
    except OSError as error:
        raise NoInputError(f"cannot read {path}: {error.strerror}; name a readable TOML file") from error
    if len(text) > _MAX_TOML:
        raise UsageError(
            f"a configuration file has at most {_MAX_TOML} bytes, {path} has more; remove what is not configuration"
        )
    try:
        return tomllib.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} must be valid TOML: {error}") from error


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested tables, `above` winning; a table of another `name` replaces the one below whole."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("name", old.get("name")) == old.get("name")
        ):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def _explain(problem: Any) -> str:
    path = [str(part) for part in problem["loc"]]
    key = ".".join(path)
    if problem["type"] == "unexpected_keyword_argument":
        return f"{key} is no setting{_nearest(path[-1], _SETTINGS)}"
    if problem["type"] == "value_error" or not key:
        return problem["msg"].removeprefix("Value error, ")
    return f"{key}: {problem['msg']}, got {problem['input']!r}"


def _nearest(name: str, known: list[str]) -> str:
    found = difflib.get_close_matches(name, known, 1, 0.4)
    return f"; did you mean {found[0]}?" if found else f"; known: {', '.join(known)}"
