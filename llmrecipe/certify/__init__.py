"""Whether a recipe trains exactly: its run, shrunk: straight through, interrupted, and in another layout."""
