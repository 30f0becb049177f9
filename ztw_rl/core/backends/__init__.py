"""What runs an early-exit model online; ``named`` chooses one by name."""
