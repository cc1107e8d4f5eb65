"""Models that transformers trains."""
