"""Tokenizers: training them, taking them over, and cutting texts that are too long for them."""
