"""Read samples of any schema from parquet and delimited text, with pyarrow."""
