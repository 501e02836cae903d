"""The campaigns, one per module. `tests.reliability.__main__` lists them."""
