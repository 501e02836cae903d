"""Load click logs, real and generated: raw data to memory maps to batches."""
