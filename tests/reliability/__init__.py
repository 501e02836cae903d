"""Reliability campaigns (`make reliability`, docs/reliability.md): count outcomes of faults and hostile input."""
