"""The prepare stage: IDX archives to a Parquet dataset, by Spark."""
