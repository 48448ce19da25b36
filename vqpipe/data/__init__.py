"""Data sources and their common form: records, Parquet shards, loaders, and the embedded `scenes`."""
