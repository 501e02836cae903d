"""Which optimizer trains the better DLRM, by how much, with what certainty, at what cost."""
