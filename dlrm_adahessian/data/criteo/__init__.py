"""The Criteo Kaggle format: parsed, written, and prepared."""
