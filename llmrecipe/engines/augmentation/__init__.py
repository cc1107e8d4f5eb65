"""Text that is made from a corpus's own: which documents, what of them, and what of that is kept."""
