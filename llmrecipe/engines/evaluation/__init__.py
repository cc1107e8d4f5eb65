"""How well models predict held-out text."""
