"""Compare optimizers and models: tune them alike, train them over seeds, and estimate differences with intervals."""
