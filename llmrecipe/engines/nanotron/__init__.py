"""nanotron 0.4, made importable on any device and mended."""
