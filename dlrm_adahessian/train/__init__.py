"""Training: the loop, the step, what a run writes, and the run with its baseline."""
