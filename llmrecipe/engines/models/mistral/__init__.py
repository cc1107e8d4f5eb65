"""Mistral in two libraries."""
