"""What every training run leaves on its way, whatever trains: learning rates, rows, event files, checkpoints."""
