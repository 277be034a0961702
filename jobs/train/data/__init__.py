"""Rows from Parquet to batches: their order, the reader, the row cache, prefetching."""
