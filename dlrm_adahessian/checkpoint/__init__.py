"""Write and read checkpoints, also in the background while training continues."""
