"""Generate samples with Criteo's published marginals and a planted click model."""
