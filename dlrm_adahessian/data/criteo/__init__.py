"""Parse and write the Criteo Kaggle format."""
