"""Reports as one HTML file each: a comparison of optimizers or models, an evaluation of models."""
