"""One store: Iceberg tables of Parquet files under one URL, their snapshots, tags and digests."""
