"""Image classifiers: data, backbones, training and evaluation on the same ``core``."""
