"""Models in transformers' terms: their folders, their architectures, and how far two are apart."""
