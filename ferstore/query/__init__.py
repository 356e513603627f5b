"""DuckDB over one pinned snapshot of the store: SQL, nearest neighbours, differences."""
