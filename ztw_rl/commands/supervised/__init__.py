"""Commands of the supervised pipeline, one per file."""
