"""Operating points: what a model is asked for, and the thresholds that are chosen for it."""
