"""The long run that proves shared rules of reliability: faults, bad and hostile input, counted (docs/reliability.md)."""
