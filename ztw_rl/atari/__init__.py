"""Atari: environments, PPO, distillation of internal classifiers, evaluation."""
