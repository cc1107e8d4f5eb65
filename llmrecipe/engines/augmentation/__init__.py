"""Text that is made from a corpus: of which documents, how, and which of it is kept."""
