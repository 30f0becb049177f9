"""Early exit for reinforcement-learning policies and image classifiers."""

__version__ = "0.1.0"
