"""The recipe language: what a user wants, in frozen classes that know nothing of files or engines."""
