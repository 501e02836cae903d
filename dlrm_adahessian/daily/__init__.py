"""Train one model day by day with warm starts, and compare it with models trained from scratch."""
