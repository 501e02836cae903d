"""Which optimizer trains the better model, and which model is better, by how much, with what certainty, at what cost."""
