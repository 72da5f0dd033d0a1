"""A system's own settings and what its paper trains otherwise than AVSBench's, a file a system."""
