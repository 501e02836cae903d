"""The long run behind docs/reliability.md, `make reliability`: faults, bad and hostile input, counted; and its tests."""
