"""Recipe to pipeline: pure, and blind to how a stage works."""
