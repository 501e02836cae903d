"""What is tried, a campaign per module; `tests.reliability.__main__` lists them."""
