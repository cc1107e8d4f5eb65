"""ModernBERT in two libraries."""
