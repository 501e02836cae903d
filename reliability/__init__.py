"""The long run behind docs/reliability.md: faults, bad and hostile input, tried and counted."""
