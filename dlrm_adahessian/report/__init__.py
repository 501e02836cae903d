"""A comparison as one HTML file, Markdown and a table."""
