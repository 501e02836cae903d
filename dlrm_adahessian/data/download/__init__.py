"""Fetch the archive of rows from a mirror that the user names; nothing else in the program touches the network."""
