"""Open text inputs: files, compressed files, archives, folders, and pipes."""
