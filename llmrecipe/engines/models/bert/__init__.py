"""BERT in two libraries."""
