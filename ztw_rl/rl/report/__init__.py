"""Evaluations of many agents side by side."""
