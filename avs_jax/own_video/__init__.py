"""A person's own video: what a model says of it second by second, written as films, masks and tables."""
