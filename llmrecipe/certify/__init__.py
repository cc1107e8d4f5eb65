"""Whether a recipe trains exactly: its training, shrunk, straight through, interrupted, and in another layout."""
