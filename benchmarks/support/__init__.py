"""What several benchmarks use: the Kaggle model, steps to time, printed rows."""
