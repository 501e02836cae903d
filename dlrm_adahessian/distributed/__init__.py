"""What knows of other ranks: process group, sharded lookup, exchange of derivatives, checkpoints."""
