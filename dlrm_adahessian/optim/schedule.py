"""The factor on the learning rates at each step."""

from dlrm_adahessian.optim.config import ScheduleConfig


def lr_scale(step: int, total_steps: int, cfg: ScheduleConfig) -> float:
    """Return the factor in (0, 1] for a step.

    Args:
        step: counts from 1 to `total_steps`.
        total_steps: of the whole run.
        cfg: shape of the schedule.

    Returns:
        The factor; linear decay ends at 1 / (decaying steps), not at 0, so that the last step still counts.
    """
    warmup = round(cfg.warmup * total_steps)
    if step <= warmup:
        return step / warmup
    if cfg.decay == "none":
        return 1.0
    decaying = total_steps - warmup
    return (total_steps - step + 1) / decaying
