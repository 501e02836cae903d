"""Text inputs: files, compressed files, archives, folders, pipes."""
