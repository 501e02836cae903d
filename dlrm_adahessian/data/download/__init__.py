"""Download the data archive from a mirror that the user configures. No other part of the program uses the network."""
