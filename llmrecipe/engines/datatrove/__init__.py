"""Raw text to clean documents, and documents to tokens, by datatrove's readers, blocks and writers."""
