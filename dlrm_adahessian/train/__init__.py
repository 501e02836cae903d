"""Train a model: the loop, the training step, the log of a run, and the run with its baseline."""
