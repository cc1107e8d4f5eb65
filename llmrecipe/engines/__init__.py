"""The only importers of the heavy libraries."""
