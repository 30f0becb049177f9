"""Exits on what the user has trained: a network of their own, or a policy."""
