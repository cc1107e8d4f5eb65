"""Qwen3 in two libraries."""
