"""Train DLRM with second-order optimizers on dense and sparse parameters.

The names below are the public library. Each is imported on first use, which keeps the import of the package fast.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlrm_adahessian.runtime.process import settle_numba

if TYPE_CHECKING:
    from dlrm_adahessian.compare.config import CompareConfig as CompareConfig
    from dlrm_adahessian.compare.study import run_study as run_study
    from dlrm_adahessian.compare.summary import summarize as summarize
    from dlrm_adahessian.config import RunConfig as RunConfig
    from dlrm_adahessian.config import composed as composed
    from dlrm_adahessian.curvature.base import Derivatives as Derivatives
    from dlrm_adahessian.curvature.check import Measured as Measured
    from dlrm_adahessian.curvature.check import measured as measured
    from dlrm_adahessian.curvature.exact import ExactDiagonal as ExactDiagonal
    from dlrm_adahessian.curvature.gauss_newton_bartlett import GaussNewtonBartlett as GaussNewtonBartlett
    from dlrm_adahessian.curvature.hutchinson import Hutchinson as Hutchinson
    from dlrm_adahessian.curvature.parts import Parts as Parts
    from dlrm_adahessian.embeddings.row_rules import RowRuleSharder as RowRuleSharder
    from dlrm_adahessian.errors import ProgramError as ProgramError
    from dlrm_adahessian.evaluation.job import evaluate as evaluate
    from dlrm_adahessian.evaluation.request import EvaluationRequest as EvaluationRequest
    from dlrm_adahessian.library.eigenbasis import Eigenbasis as Eigenbasis
    from dlrm_adahessian.library.exact import exact_curvature as exact_curvature
    from dlrm_adahessian.library.hutchinson import hutchinson_curvature as hutchinson_curvature
    from dlrm_adahessian.library.optimizers import AdaHessian as AdaHessian
    from dlrm_adahessian.library.optimizers import HessianAdagrad as HessianAdagrad
    from dlrm_adahessian.metrics.binary import binary_metrics as binary_metrics
    from dlrm_adahessian.serving.export import export as export
    from dlrm_adahessian.statistics.comparison import compare_predictions as compare_predictions
    from dlrm_adahessian.statistics.crossed import crossed_difference as crossed_difference
    from dlrm_adahessian.train.with_baseline import run_job as run_job

__version__ = "0.2.0"

_MODULES = {
    "compare.config": ("CompareConfig",),
    "compare.summary": ("summarize",),
    "compare.study": ("run_study",),
    "config": ("RunConfig", "composed"),
    "curvature.base": ("Derivatives",),
    "curvature.check": ("Measured", "measured"),
    "curvature.exact": ("ExactDiagonal",),
    "curvature.gauss_newton_bartlett": ("GaussNewtonBartlett",),
    "curvature.hutchinson": ("Hutchinson",),
    "curvature.parts": ("Parts",),
    "embeddings.row_rules": ("RowRuleSharder",),
    "errors": ("ProgramError",),
    "evaluation.job": ("evaluate",),
    "evaluation.request": ("EvaluationRequest",),
    "library.eigenbasis": ("Eigenbasis",),
    "library.exact": ("exact_curvature",),
    "library.hutchinson": ("hutchinson_curvature",),
    "library.optimizers": ("AdaHessian", "HessianAdagrad"),
    "metrics.binary": ("binary_metrics",),
    "serving.export": ("export",),
    "statistics.comparison": ("compare_predictions",),
    "statistics.crossed": ("crossed_difference",),
    "train.with_baseline": ("run_job",),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = ["__version__", *sorted(_PLACES)]  # pyright: ignore[reportUnsupportedDunderAll]

settle_numba(Path(__file__).parent)


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
