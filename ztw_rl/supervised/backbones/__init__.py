"""The networks; ``registry`` finds them by name."""
