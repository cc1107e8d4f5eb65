"""Tokens as runs and scores read them: files, mixtures, their order, and what is made of a sequence."""
