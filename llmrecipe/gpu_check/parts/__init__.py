"""What the check asks, one module a question: each has `run(scale, folder)`."""
