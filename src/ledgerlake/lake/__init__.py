"""The event log and what follows from it in Parquet: segments, statistics, trends."""
