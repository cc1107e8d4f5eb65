"""Qwen2 in two libraries."""
