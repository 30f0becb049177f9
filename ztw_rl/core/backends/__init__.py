"""What runs an early-exit model online; ``core.runtime`` chooses one by name."""
