"""Run directories, and files that survive a crash."""
