"""A DVC that makes no project: it notes how it was called, and does what `FAKE_DVC` says."""
