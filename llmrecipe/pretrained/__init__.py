"""What is known of somebody's model before any stage runs: its files' headers, without torch or transformers."""
