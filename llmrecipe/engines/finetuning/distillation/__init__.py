"""A student that learns what its teacher predicts."""
