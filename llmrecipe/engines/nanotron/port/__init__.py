"""What makes the published nanotron importable, right, and able to run without a GPU."""
