"""Time spent in steps, over all sittings of a run."""

import statistics
from collections import deque
from collections.abc import Mapping

_MAX_TIMES = 100_000  # step times kept for the median


class StepClock:
    """Adds up steps; a checkpoint has its state."""

    def __init__(self) -> None:
        self.seconds, self.samples, self.median = 0.0, 0, 0.0
        self._recent: deque[float] = deque(maxlen=_MAX_TIMES)

    def add(self, seconds: float, samples: int) -> None:
        """Count a step."""
        self.seconds += seconds
        self.samples += samples
        self._recent.append(seconds)

    def summary(self) -> dict[str, float | int]:
        """Return the figures of summary.json; the median is that of the steps of this sitting, if there are any."""
        if self._recent:
            self.median = statistics.median(self._recent)
        return {
            "seconds": self.seconds,
            "samples_per_second": self.samples / self.seconds if self.seconds else 0.0,
            "step_ms_median": 1e3 * self.median,
        }

    def state(self) -> dict[str, float | int]:
        """Return what `load` takes."""
        self.summary()
        return {"seconds": self.seconds, "samples": self.samples, "median": self.median}

    def load(self, state: Mapping[str, float | int]) -> None:
        """Go on from what `state` returned."""
        self.seconds, self.samples = state["seconds"], int(state["samples"])
        self.median = state["median"]
