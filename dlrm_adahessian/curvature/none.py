"""No curvature: the gradient alone, for first-order optimizers."""

from torch import Tensor, nn

from dlrm_adahessian.curvature.base import Derivatives, Place, gradient


class NoCurvature:
    """The gradient by autograd."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def __call__(
        self,
        head: nn.Module,
        dense: Tensor,
        pooled: Tensor,
        labels: Tensor,
        *,
        curvature_samples: int,
        place: Place | None = None,
    ) -> Derivatives:
        """Return the gradient; see `Estimator`."""
        del curvature_samples, place
        return gradient(head, dense, pooled, labels)

    def load_state(self) -> None:
        """There is none."""
