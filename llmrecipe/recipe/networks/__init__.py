"""Families of networks: the shapes of models, without weights."""
