"""The networks, one per file; ``registry`` finds them by name."""
