"""Manage the process and its machine: launcher, device, settings, signals, and terminal."""
