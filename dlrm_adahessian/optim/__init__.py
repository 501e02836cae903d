"""Update rules for dense parameters and for embedding rows."""
