"""Internal: the report, its tables, files and page."""
