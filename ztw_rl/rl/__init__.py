"""Policies in environments: training, distillation into exits, evaluation."""
