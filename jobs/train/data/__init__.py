"""From Parquet shards to batches: the order of rows, the reader, the row cache, graph calls, prefetching."""
