"""Flow records in files: JSON lines and Parquet, rotated."""
