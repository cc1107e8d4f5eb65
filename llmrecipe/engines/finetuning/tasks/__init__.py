"""A model that learns a task from examples."""
