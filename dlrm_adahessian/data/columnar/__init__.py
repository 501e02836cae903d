"""Rows of any schema from parquet and delimited text, read through pyarrow."""
