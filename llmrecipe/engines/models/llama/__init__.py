"""Llama in two libraries."""
