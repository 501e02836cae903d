"""Reports as one HTML file each: a comparison of optimizers, an evaluation of models."""
