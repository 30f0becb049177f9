"""Weights of eight bits where reading them is what takes the time."""

from __future__ import annotations

import numpy as np

from ztw_rl.core.backends.litert.graph import Graph

WIDE = 1 << 18
"""Weights of a linear layer from which on it waits for memory: a mebibyte of float32."""
LARGEST = 127


def with_int8_weights(graph: Graph) -> int:
    """Round the weights of wide linear layers, per output channel, in place.

    LiteRT rounds what such a layer reads as well, anew for each sample, and adds up exactly.

    Args:
        graph: Of float32.

    Returns:
        How many layers are that wide.
    """
    n_layers = 0
    for step in graph.operators:
        if not step.is_layer or step.weights is None or step.weights.size < WIDE:
            continue
        scales = np.abs(step.weights).max(axis=1, keepdims=True) / LARGEST
        # A row of zeros is one at any scale.
        scales = np.where(scales > 0, scales, 1)
        step.weights = np.round(step.weights / scales).astype(np.int8)
        step.scales = scales.ravel()
        step.options["asymmetricQuantizeInputs"] = True
        n_layers += 1
    return n_layers
