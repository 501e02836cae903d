"""A model that trains on day after day, against models trained anew on all days so far."""
